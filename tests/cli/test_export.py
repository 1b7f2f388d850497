"""`align-iqa export`: one file in place of a checkpoint, a training file and the frozen weights."""

import csv
import hashlib
import json
from importlib import import_module
from pathlib import Path

import pyiqa
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import align_iqa_plugin  # noqa: F401  so that the tests also pass where torch's autoload is switched off
from align_iqa_plugin.archs import onnx as onnx_module
from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import checkpoint_state, create_align_iqa, full_state
from align_iqa_plugin.cli import app
from align_iqa_plugin.models.options_file import read_file

export_module = import_module('align_iqa_plugin.cli.export')
OPTIONS = Path(__file__).parents[2] / 'options' / 'train' / 'AlignIQA' / 'align_iqa_fast.yml'
IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def trained(**network):
    net = AlignIQA(**network)
    for parameter in net.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    net.is_trained = True
    return net.eval()


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """backbone.safetensors, net.yml that names it, net.pth, a checkpoint of its training; and its scores."""
    root = tmp_path_factory.mktemp('work')
    torch.manual_seed(0)
    network = {
        # DINO's mean and deviation are not those of the name without its tag
        'backbone': 'vit_small_patch16_224.dino',
        'backbone_weights': str(root / 'backbone.safetensors'),
        'input_size': 64,
        'stages': 3,
        'guide': 'saliency',
        'guide_options': {'dim': 32},
        'injection': 'cgi',
        'injection_options': {'blocks': [10, 11]},
        'aggregation': 'msfa',
        'aggregation_options': {'channels': 8},
        'head': 'mlp',
    }
    save_file(timm.create_model('vit_small_patch16_224', num_classes=0).state_dict(), root / 'backbone.safetensors')
    net = trained(**network)
    torch.save({'params': checkpoint_state(net)}, root / 'net.pth')
    torch.save({'params': full_state(net)}, root / 'whole.pth')
    options = read_file(OPTIONS) | {'network': {'type': 'AlignIQA', **network}}
    (root / 'net.yml').write_text(yaml.safe_dump(options))
    return root, net(IMAGE).detach()


@pytest.fixture(scope='module')
def exported(work, tmp_path_factory):
    """The export, alone in a folder; the weights that the training file names are gone."""
    output = tmp_path_factory.mktemp('elsewhere') / 'model.safetensors'
    result = run('export', work[0] / 'net.pth', '--opt', work[0] / 'net.yml', '--output', output)
    assert result.exit_code == 0, result.output
    assert 'MB' in result.stdout
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    (work[0] / 'backbone.safetensors').rename(work[0] / 'away.safetensors')
    yield output
    (work[0] / 'away.safetensors').rename(work[0] / 'backbone.safetensors')


def test_the_metric_from_the_file_alone_gives_the_scores_of_the_training(exported, work):
    metric = pyiqa.create_metric('align_iqa', device='cpu', pretrained_model_path=str(exported))
    assert torch.equal(metric(IMAGE), work[1])


def test_the_options_of_the_training_may_be_given_too_and_their_weights_are_not_read(exported, work):
    network = yaml.safe_load((work[0] / 'net.yml').read_text())['network']
    del network['type']
    assert torch.equal(create_align_iqa(**network, pretrained_model_path=str(exported)).eval()(IMAGE), work[1])


@pytest.mark.parametrize(
    ('departure', 'sentence'),
    [
        ({'stages': 4}, 'stages: 3, but this one has 4'),
        ({'head_options': {'hidden': 7}}, "head_options: .*'hidden': 128"),
        ({'backbone': 'vit_tiny_patch16_224'}, 'backbone: vit_small_patch16_224, but this one has vit_tiny_patch16_224'),
        ({'backbone': 'vit_small_patch16_224'}, "normalises images by .*give the backbone's whole name, with its tag"),
        ({'guide_options': {'dim': 16}}, 'does not fit this network: size mismatch for .*guid'),
    ],
)
def test_a_keyword_that_contradicts_the_file_is_refused(exported, departure, sentence):
    with pytest.raises(ValueError, match=f'pretrained_model_path: {exported}.*{sentence}'):
        create_align_iqa(pretrained_model_path=str(exported), **departure)


def test_the_file_tells_where_it_comes_from_and_names_no_path(exported, work):
    with safe_open(exported, 'pt') as file:
        metadata = file.metadata()
    provenance, network = json.loads(metadata['provenance']), json.loads(metadata['network'])
    assert provenance['checkpoint_sha256'] == hashlib.sha256((work[0] / 'net.pth').read_bytes()).hexdigest()
    assert provenance['checkpoint'] == 'net.pth' and provenance['training_file'] == 'net.yml'
    assert provenance['versions'].keys() == {'align-iqa-plugin', 'pyiqa', 'timm', 'torch'}
    assert network['backbone'] == 'vit_small_patch16_224.dino' and network['guide_options'] == {'dim': 32}
    assert str(work[0]) not in str(metadata)


def test_an_export_of_an_export_is_the_same_network(exported, work, tmp_path):
    result = run('export', exported, '--output', tmp_path / 'again.safetensors')
    assert result.exit_code == 0, result.output
    first, again = load_file(exported), load_file(tmp_path / 'again.safetensors')
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(create_align_iqa(pretrained_model_path=str(tmp_path / 'again.safetensors')).eval()(IMAGE), work[1])


def test_score_and_evaluate_take_it_as_weights(exported, tmp_path):
    rows = [{'name': f'{i}.png', 'mos': i / 10, 'prompt': f'prompt {i}'} for i in range(30)]
    for i in range(30):
        Image.new('RGB', (64, 64), (8 * i, 90, 200 - 5 * i)).save(tmp_path / f'{i}.png')
    with (tmp_path / 'data.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    result = run('score', tmp_path, '--weights', exported, '--output', tmp_path / 'a.json', '--device', 'cpu')
    assert result.exit_code == 0, result.output
    scores = {Path(row['image']).name: row['score'] for row in json.loads((tmp_path / 'a.json').read_text())}
    result = run('evaluate', tmp_path, '--weights', exported, '--output', tmp_path / 'b.json', '--device', 'cpu')
    assert result.exit_code == 0, result.output
    images = json.loads((tmp_path / 'b.json').read_text())['images']
    assert images
    assert [row['score'] for row in images] == pytest.approx([scores[row['image']] for row in images], abs=1e-4)


def test_a_file_whose_frozen_weights_were_changed_is_refused(exported, tmp_path):
    with safe_open(exported, 'pt') as file:
        metadata = file.metadata()
    state = load_file(exported)
    state['backbone.vit.blocks.3.mlp.fc1.bias'][5] += 0.1
    save_file(state, tmp_path / 'changed.safetensors', metadata)
    with pytest.raises(ValueError, match='other frozen weights in backbone'):
        create_align_iqa(pretrained_model_path=str(tmp_path / 'changed.safetensors'))
    del state['backbone.vit.norm.bias']
    save_file(state, tmp_path / 'changed.safetensors', metadata)
    with pytest.raises(ValueError, match='holds 149 of the 150 tensors of backbone'):
        create_align_iqa(pretrained_model_path=str(tmp_path / 'changed.safetensors'))


def test_the_semantic_guide_brings_its_vision_language_model_along(tiny_vlm, tmp_path):
    options = {'backbone': 'test_vit', 'backbone_weights': 'random', 'input_size': 64}
    options |= {'guide': 'semantic', 'guide_options': {**tiny_vlm, 'dim': 16}, 'injection': 'cgi'}
    torch.manual_seed(0)
    net = trained(**options)
    torch.save({'params': full_state(net)}, tmp_path / 'net.pth')
    training = read_file(OPTIONS)
    training['network'] = {'type': 'AlignIQA', **options}
    (tmp_path / 'net.yml').write_text(yaml.safe_dump(training))
    output = tmp_path / 'model.safetensors'
    result = run('export', tmp_path / 'net.pth', '--opt', tmp_path / 'net.yml', '--output', output)
    assert result.exit_code == 0, result.output
    metric = pyiqa.create_metric('align_iqa', device='cpu', pretrained_model_path=str(output))
    prompts = ['a cat', None]
    assert torch.equal(metric(IMAGE, caption_list=prompts), net(IMAGE, caption_list=prompts))
    assert tiny_vlm['vlm_weights'] not in output.read_bytes()[:100_000].decode('latin1')


@pytest.mark.slow
def test_the_packaged_model_can_be_exported_and_scores_the_same(tmp_path):
    from align_iqa_plugin.archs.weights import PACKAGED_FAST_FILE

    output = tmp_path / 'model.safetensors'
    result = run('export', PACKAGED_FAST_FILE, '--opt', OPTIONS, '--output', output)
    assert result.exit_code == 0, result.output
    packaged = create_align_iqa(pretrained_model_path='packaged-fast').eval()
    assert torch.equal(create_align_iqa(pretrained_model_path=str(output)).eval()(IMAGE), packaged(IMAGE))


def test_what_cannot_be_exported_is_refused_with_one_sentence_and_leaves_no_file(work, tmp_path):
    untrained = AlignIQA(backbone='test_vit', backbone_weights='random')
    torch.save({'params': full_state(untrained)}, tmp_path / 'new.pth')
    (tmp_path / 'bad.pth').write_bytes(b'')
    save_file({'a': torch.ones(1)}, tmp_path / 'other.safetensors')
    before = sorted(tmp_path.iterdir())
    output = tmp_path / 'x.safetensors'
    for words, sentence in [
        (['gone.pth', '--output', output], 'align-iqa export: CHECKPOINT: there is no file gone.pth.'),
        ([tmp_path / 'bad.pth', '--output', output], f'CHECKPOINT: {tmp_path / "bad.pth"} cannot be read;'),
        ([tmp_path / 'new.pth', '--output', output], 'has no trained weights'),
        ([tmp_path / 'other.safetensors', '--output', output], 'other.safetensors: it has no metadata of Align-IQA'),
        ([tmp_path / 'other.safetensors', '--output', tmp_path / 'other.safetensors'], 'would overwrite'),
        ([work[0] / 'net.pth', '--output', tmp_path / 'x.pth'], 'must end in .safetensors'),
        ([work[0] / 'net.pth', '--output', tmp_path / 'x.onnx'], "x.onnx' is for --format onnx"),
        ([work[0] / 'net.pth', '--output', tmp_path / 'none' / 'x.safetensors'], 'there is no folder'),
        ([work[0] / 'net.pth', '--output', output], "'packaged' are those of vit_base_patch16_clip_quickgelu_224"),
        ([work[0] / 'net.pth', '--opt', 'gone.yml', '--output', output], 'there is no training file gone.yml'),
    ]:
        result = run('export', *words)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith('align-iqa export: ') and sentence in result.stderr, result.stderr
        assert result.stderr.count('\n') == 1
        assert sorted(tmp_path.iterdir()) == before


def test_onnx_without_its_packages_or_with_prompts_fails_with_one_sentence(exported, tmp_path, monkeypatch):
    output = tmp_path / 'x.onnx'
    cases = [
        (['--format', 'onnx', '--output', tmp_path / 'x.safetensors'], 'must end in .onnx'),
        (['--format', 'onxx', '--output', output], "unknown --format 'onxx'"),
    ]
    for words, sentence in cases:
        result = run('export', *words)
        assert result.exit_code == 2 and sentence in result.stderr and result.stderr.count('\n') == 1
    monkeypatch.setattr(export_module, 'find_spec', lambda name: None)
    result = run('export', '--format', 'onnx', '--output', output)
    assert result.exit_code == 2 and "pip install 'align-iqa-plugin[onnx]'" in result.stderr
    monkeypatch.setattr(export_module, 'find_spec', lambda name: name)
    monkeypatch.setattr(AlignIQA, 'reads_prompts', True)
    result = run('export', exported, '--format', 'onnx', '--output', output)
    assert result.exit_code == 2 and 'reads prompts' in result.stderr and result.stderr.count('\n') == 1
    assert not output.exists()


def test_an_onnx_file_states_what_it_is(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = trained(backbone='test_vit', backbone_weights='random')
    net.score_range = 1.0, 9.0
    torch.save({'params': full_state(net)}, tmp_path / 'net.pth')
    options = read_file(OPTIONS) | {'network': {'type': 'AlignIQA', **net.config, 'backbone_weights': 'random'}}
    options['network'].pop('aggregation_options')
    (tmp_path / 'net.yml').write_text(yaml.safe_dump(options))
    stated = {}
    monkeypatch.setattr(export_module, 'find_spec', lambda name: name)
    monkeypatch.setattr(onnx_module, 'onnx_model', lambda network, metadata: stated.update(metadata) or b'model')
    words = [tmp_path / 'net.pth', '--opt', tmp_path / 'net.yml', '--format', 'onnx', '--output', tmp_path / 'net.onnx']
    result = run('export', *words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / 'net.onnx').read_bytes() == b'model'
    assert stated['score_range'] == '1.0 to 9.0' and stated['higher_is_better'] == 'true'
    assert len(stated['weights']) == 64 and stated['version'] and stated['name'] == 'Align-IQA'


# other files that pretrained_model_path takes


def test_a_checkpoint_of_the_training_tells_its_network_and_needs_the_frozen_weights(work):
    root, scores = work
    weights = next(root.glob('*.safetensors'))
    given = {'backbone': 'vit_small_patch16_224.dino', 'guide_options': {'dim': 32}}
    net = create_align_iqa(pretrained_model_path=str(root / 'net.pth'), backbone_weights=str(weights), **given)
    assert torch.equal(net.eval()(IMAGE), scores)
    with pytest.raises(ValueError, match='net.pth: it was trained on other frozen weights in backbone'):
        create_align_iqa(pretrained_model_path=str(root / 'net.pth'), backbone_weights='random', **given)


def test_a_plain_checkpoint_of_everything_is_taken_in_each_usual_form(work, tmp_path):
    root, scores = work
    network = yaml.safe_load((root / 'net.yml').read_text())['network']  # its weights are not read
    del network['type']
    state = torch.load(root / 'whole.pth', weights_only=True)['params']
    silent = {name: tensor for name, tensor in state.items() if name != 'metadata'}
    for form in (state, {'params': silent}, silent, {'state_dict': {f'module.{name}': t for name, t in silent.items()}}):
        torch.save(form, tmp_path / 'net.pth')
        assert torch.equal(create_align_iqa(**network, pretrained_model_path=str(tmp_path / 'net.pth')).eval()(IMAGE), scores)


def test_a_checkpoint_that_tells_nothing_has_to_be_whole(work, tmp_path):
    network = yaml.safe_load((work[0] / 'net.yml').read_text())['network'] | {'backbone_weights': 'random'}
    del network['type']
    state = torch.load(work[0] / 'whole.pth', weights_only=True)['params']
    del state['metadata']
    for name, change, sentence in [
        ('head.mlp.4.bias', None, '1 is missing, such as head.mlp.4.bias'),
        ('backbone.vit.norm.bias', None, '1 is missing, such as backbone.vit.norm.bias'),
        ('tail.bias', torch.ones(1), '1 is unknown, such as tail.bias'),
        ('head.mlp.4.bias', torch.ones(2), 'does not fit this network: .*head.mlp.4.bias'),
    ]:
        changed = {**state, name: change}
        torch.save({key: value for key, value in changed.items() if value is not None}, tmp_path / 'net.pth')
        with pytest.raises(ValueError, match=f'net.pth.*{sentence}'):
            create_align_iqa(**network, pretrained_model_path=str(tmp_path / 'net.pth'))


def test_a_checkpoint_without_the_frozen_weights_is_a_small_part_of_one_with_them(work):
    part, whole = ((work[0] / name).stat().st_size for name in ('net.pth', 'whole.pth'))
    assert part < whole / 10


def test_the_file_has_the_mode_that_the_user_gives_to_new_files(exported, tmp_path):
    (tmp_path / 'new').touch()
    assert exported.stat().st_mode == (tmp_path / 'new').stat().st_mode
