import inspect
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyiqa.archs import build_network
from pyiqa.utils import logger
from typer.testing import CliRunner

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.cli import app
from align_iqa_plugin.data.aigc_dataset import OPTIONS
from align_iqa_plugin.models.options import DATASET, check_options, read_options

FOLDER = Path(__file__).resolve().parents[2] / 'options' / 'train' / 'AlignIQA'
FILES = sorted(FOLDER.glob('*.yml'))


def load(file):
    return yaml.safe_load(file.read_text(encoding='utf-8'))


def test_there_is_a_file_for_every_row_of_the_tables_1_to_4():
    rows = [load(file)['paper']['row'] for file in FILES if 'paper' in load(file)]
    assert [sum(f'table {number}, ' in row for row in rows) for number in (1, 2, 3, 4)] == [5, 3, 3, 3]
    for file in FILES:
        header = file.read_text(encoding='utf-8').split('\nname:')[0]
        for word in ('reported: ', 'measured here: ', 'command: '):
            assert word in header


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_file_builds_and_takes_training_steps_that_lower_the_loss(file, tiny_vlm):
    options = load(file)
    network = options['network'] | {'backbone': 'vit_tiny_patch16_224', 'backbone_weights': 'random', 'input_size': 64}
    if network['guide'] == 'semantic':
        network['guide_options'] = tiny_vlm
    torch.manual_seed(0)
    net = build_network(network)
    image, mos = torch.rand(4, 3, 64, 64), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    prompts = ['a cat', 'a dog', None, '']
    with torch.no_grad():
        vectors = net.features(image, prompts, *net.plain_blocks(image))
    net.head.fit(vectors, mos, alpha=float(options['train']['ridge_alpha']), folds=[0, 1, 2, 3])
    trained = [p for p in net.parameters() if p.requires_grad]
    assert bool(trained) == (options['train']['total_iter'] > 0)
    if not trained:
        return
    optimizer = torch.optim.AdamW(trained, 1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (net.train()(image, caption_list=prompts) - mos.flip(0)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_file_names_itself_and_its_command(file):
    text = file.read_text(encoding='utf-8')
    assert load(file)['name'] == file.stem
    assert f'align-iqa train --opt options/train/AlignIQA/{file.name}' in text


def test_the_packaged_model_is_the_network_of_its_file_and_the_defaults_of_the_constructor():
    network = load(FOLDER / 'align_iqa.yml')['network']
    defaults = {name: p.default for name, p in inspect.signature(AlignIQA).parameters.items()}
    assert {key: value for key, value in network.items() if key != 'type'}.items() <= defaults.items()


GOOD = FOLDER / 'table1_cgi_msfa.yml'


@pytest.fixture
def file(tmp_path):
    """Writes options, or a text, to a file."""

    def write(options):
        path = tmp_path / 'a.yml'
        path.write_text(options if isinstance(options, str) else yaml.safe_dump(options), encoding='utf-8')
        return path

    return write


def problems(path, *overrides):
    with pytest.raises(ValueError) as error:
        read_options(path, overrides)
    return str(error.value)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_file_passes_as_it_is(file):
    assert read_options(file) == load(file)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ('nam=x', 'nam: there is no such key; did you mean name?'),
        ('name=a/b', "name is 'a/b', not a name for a folder."),
        ('num_gpu=-1', 'num_gpu is -1, not auto or a whole number from 0.'),
        ('model_type=AlignIQAModl', "model_type: pyiqa has no 'AlignIQAModl'; did you mean AlignIQAModel?"),
        ('datasets.val.input_size=336', 'datasets.val.input_size is 336, and network.input_size 224'),
        ('path=3', 'path is 3, not a section of keys.'),
        ('path.pretrained_network=x', 'path.pretrained_network: there is no such key; did you mean pretrain_network?'),
        ('datasets.valid.name=x', 'datasets.valid: there is no such key; did you mean val?'),
        ('datasets.val=~', 'datasets.val is None, not a section of keys.'),
        ('datasets.val.split_indx=2', 'datasets.val.split_indx: there is no such key; did you mean split_index?'),
        ('datasets.train.batch_size_per_gpu=0', 'datasets.train.batch_size_per_gpu is 0, not a whole number from 1.'),
        ('datasets.train.mos_range=[5, 0]', 'datasets.train.mos_range is [5, 0], not a list of the lowest and the highest'),
        ('datasets.train.dataroot_target=~', 'datasets.train needs dataroot_target'),
        ('network.gide=none', 'network.gide: there is no such key; did you mean guide?'),
        ('network.guide=salincy', "network.guide: there is no 'salincy'; did you mean saliency?"),
        ('network.head=none', "network.head: there is no 'none'; possible are: kernel, linear, mlp."),
        ('network.stages=four', "network.stages is 'four', not a whole number."),
        ('network.freeze_backbone=1', 'network.freeze_backbone is 1, not true or false.'),
        ('network.injection_options.heds=2', 'network.injection_options.heds: there is no such key; did you mean heads?'),
        ('network.injection_options.width=2', 'network.injection_options.width: there is no such key'),
        ('network.head_options.components=a', "network.head_options.components is 'a', not a whole number."),
        ('train.emadecay=0.9', 'train.emadecay: there is no such key; did you mean ema_decay?'),
        ('train.precision=fp8', "train.precision is 'fp8', not one of fp32, bf16, fp16."),
        ('train.accumulate=0', 'train.accumulate is 0, not a whole number from 1.'),
        ('train.total_iter=~', "train lacks the key 'total_epoch' (or total_iter)."),
        ('train.mos_loss_opt=~', "train lacks a loss, the key 'mos_loss_opt'"),
        ('train.mos_loss_opt.type=MSLoss', "train.mos_loss_opt.type: there is no 'MSLoss'; did you mean MSELoss?"),
        ('train.mos_loss_opt.loss_wait=2', 'train.mos_loss_opt.loss_wait: there is no such key; did you mean loss_weight?'),
        ('train.mos_loss_opt.reduction=maximum', 'train.mos_loss_opt: MSELoss refuses its keys: '),
        ('train.optim.type=AdamV', "train.optim.type: there is no 'AdamV'; did you mean Adam"),
        ('train.optim.type=Optimizer', "train.optim.type: there is no 'Optimizer'"),
        ('train.optim.lr=fast', "train.optim.lr is 'fast', not a number."),
        ('train.optim.lr=.inf', 'train.optim.lr is inf, not a number.'),
        ('train.optim.lr=-1', 'train.optim: AdamW refuses its keys: Invalid learning rate: -1'),
        ('train.optim.lr_head=-1', 'train.optim.lr_head is -1, not a number from 0.'),
        ('train.optim.weight_decay_gide=0', 'train.optim.weight_decay_gide: there is no such key'),
        ('train.optim.momentum=0.9', 'train.optim.momentum: there is no such key'),
        ('train.optim.layer_decay=2', 'train.optim.layer_decay is 2, not a number from 0 to 1.'),
        ('train.scheduler.T_mx=3', 'train.scheduler.T_mx: there is no such key; did you mean T_max?'),
        ('train.scheduler={type: StepLR}', "train.scheduler lacks the key 'step_size'."),
        (
            'train.scheduler={type: MultiStepLR, milestones: [1], restarts: [0, 1]}',
            'train.scheduler: MultiStepLR refuses its keys: restarts',
        ),
        ('val.key_metric=pcc', "val.key_metric is 'pcc', not one of val.metrics: srcc, plcc."),
        ('val.metrics={}', 'val.metrics names no metric'),
        ('val.metrics.srcc.type=calculate_src', "val.metrics.srcc.type: there is no 'calculate_src'; did you mean"),
        ('val.metrics.srcc.beter=higher', 'val.metrics.srcc.beter: there is no such key; did you mean better?'),
        ('val.metrics.plcc.fit_scale=cubic', 'val.metrics.plcc: calculate_plcc refuses its keys: '),
        ('logger.print_freq=often', "logger.print_freq is 'often', not a whole number from 1."),
    ],
)
def test_each_wrong_key_or_value_is_one_sentence(change, sentence):
    assert problems(GOOD, change).startswith(f'{GOOD}: {sentence}')


def test_all_problems_of_a_file_are_told_at_once():
    told = problems(GOOD, 'train.optim.lr=x', 'network.gide=none', 'logger.print_freq=0')
    assert told.splitlines() == [
        f'{GOOD}: 3 problems',
        '  network.gide: there is no such key; did you mean guide?',
        "  train.optim.lr is 'x', not a number.",
        '  logger.print_freq is 0, not a whole number from 1.',
    ]


def test_every_section_that_is_missing_is_named(file):
    for key in load(GOOD):
        if key not in ('manual_seed', 'num_gpu', 'paper'):
            options = load(GOOD)
            del options[key]
            assert f"the file lacks the key '{key}'." in problems(file(options))


def test_a_number_with_an_exponent_is_one_in_the_file_and_in_a_change(file):
    text = GOOD.read_text(encoding='utf-8').replace('lr: 0.002', 'lr: 1e-3').replace('val_freq: 65', 'val_freq: 2e2')
    options = read_options(file(text), ['train.optim.weight_decay=5E-2', 'train.scheduler.eta_min=1e-6'])
    assert options['train']['optim']['lr'] == 1e-3
    assert options['train']['optim']['weight_decay'] == 5e-2
    assert options['train']['scheduler']['eta_min'] == 1e-6
    assert options['val']['val_freq'] == 200 and isinstance(options['val']['val_freq'], int)


def test_a_change_reaches_its_key_and_no_other():
    changed = read_options(GOOD, ['datasets.train.split_index=2', 'network.injection_options.first_block=3'])
    assert changed['datasets']['train'].pop('split_index') == 2
    assert changed['network'].pop('injection_options') == {'first_block': 3}
    expected = load(GOOD)
    del expected['datasets']['train']['split_index']
    assert changed == expected


def test_a_change_of_a_section_does_not_reach_a_copy_of_it_by_an_anchor(file):
    text = GOOD.read_text(encoding='utf-8').replace('  train:\n    name', '  train: &data\n    name')
    head, _, tail = text.partition('  val:\n    name')
    text = f'{head}  val: *data\n\nnetwork:{tail.partition("network:")[2]}'
    options = read_options(file(text), ['datasets.val.split_index=3'])
    assert (options['datasets']['train']['split_index'], options['datasets']['val']['split_index']) == (1, 3)


@pytest.mark.parametrize('change', ['lr', '=3', 'train..lr=3', 'name.first=3', 'train.optim.lr=[1', 'name=!!python/name:os.x'])
def test_a_change_that_is_none_is_named(change):
    assert problems(GOOD, change).startswith(f"--set '{change}'")


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('', 'is not a training file'),
        ('- a', 'is not a training file'),
        ('name: a\nname: b', "not valid YAML: the key 'name' stands there twice"),
        ('train: {optim: {lr: 1, lr: 2}}', "the key 'lr' stands there twice"),
        ('a: [1', 'not valid YAML'),
        ('a: 2024-13-45', 'not valid YAML'),
        ('a: !!bool maybe', 'not valid YAML'),
        ('a: !!timestamp x', 'not valid YAML'),
        ('a: !!python/object/apply:os.getcwd []', 'not valid YAML'),
        ('a: &a [*a]', 'not valid YAML'),
        ('a: ' + '[' * 5000, 'not valid YAML'),
        ('a: \x00', 'not valid YAML'),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused(text, sentence, file):
    path = file(text)
    told = problems(path)
    assert told.startswith(str(path)) and sentence in told and '\n' not in told


def test_a_merge_of_sections_is_no_key_twice(file):
    text = GOOD.read_text(encoding='utf-8').replace('  train:\n    name: agiqa3k', '  train: &data\n    name: agiqa3k')
    text = text.replace('  val:\n    name', '  val:\n    <<: *data\n    name')
    assert read_options(file(text))['datasets']['val']['name'] == 'agiqa3k_val'


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / 'a.yml').write_bytes(b'name: \xff')
    assert 'cannot be read' in problems(tmp_path / 'a.yml')


def test_the_table_of_the_data_set_has_every_option_of_its_class():
    assert OPTIONS <= DATASET.keys()


def test_data_sets_and_networks_of_pyiqa_take_any_key(file):
    options = load(GOOD)
    options['datasets']['val'] = {'name': 'x', 'type': 'GeneralNRDataset', 'split_file': 'x.pkl', 'whatever': 3}
    options['network'] = {'type': 'CNNIQA', 'ker_size': 7}
    assert read_options(file(options)) == options


def leaves(options, at=()):
    for key, value in options.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from leaves(value, (*at, key))


PLAIN = st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.dates() | st.text(max_size=5)
VALUES = st.recursive(PLAIN, lambda inside: st.lists(inside) | st.dictionaries(PLAIN, inside))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_with_a_key_dropped_renamed_or_retyped_is_taken_or_refused_with_one_clean_error(data):
    options = load(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(leaves(options))))
        section = options
        for name in path[:-1]:
            section = section[name]
        value = section.pop(path[-1])
        how = data.draw(st.sampled_from(['drop', 'rename', 'retype']))
        if how == 'rename':
            section[data.draw(st.sampled_from([3, None, True, '', 'x', f'{path[-1]}s', str(path[-1])[1:], 'lr_', 'type']))] = (
                value
            )
        if how == 'retype':
            section[path[-1]] = data.draw(VALUES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'a.yml')
        file.write_text(yaml.safe_dump(options), encoding='utf-8')
        try:
            read = read_options(file)
        except ValueError as error:
            assert str(error).startswith((f'{file}: ', f'{file} is not valid YAML: '))
            assert str(error).count('\n') < 30
        else:
            assert read.keys() == options.keys()


# what a file names


@pytest.fixture
def small(tmp_path, file):
    """A training file of a small network and data set that pass, and what changes it."""
    (tmp_path / 'images').mkdir()
    for number in range(20):
        Image.new('RGB', (40, 40), (12 * number, 0, 0)).save(tmp_path / 'images' / f'{number}.png')
    rows = ''.join(f'{number}.png,{number / 5},prompt {number}\n' for number in range(20))
    (tmp_path / 'data.csv').write_text(f'name,mos,prompt\n{rows}')
    options = load(GOOD)
    options['num_gpu'] = 0
    options['network'] |= {'backbone': 'vit_tiny_patch16_224', 'backbone_weights': 'random', 'input_size': 64}
    for section in options['datasets'].values():
        section |= {'dataroot_target': str(tmp_path), 'batch_size_per_gpu': 4}
    path = file(options)
    return lambda *changes: check_options(read_options(path, changes))


def test_a_training_whose_data_and_weights_are_there_passes_and_the_log_file_still_comes(small, tmp_path, monkeypatch):
    monkeypatch.setattr(logger, 'initialized_logger', {})
    state = torch.get_rng_state()
    small()
    assert torch.equal(torch.get_rng_state(), state)
    assert logger.initialized_logger == {}


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ('datasets.val.dataroot_target=nowhere', 'datasets.val: nowhere'),
        ('datasets.train.batch_size_per_gpu=15', 'datasets.train.batch_size_per_gpu: a batch of 15 is more than the 14 images'),
        ('datasets.train.split_index=split_of_mine', 'datasets.train: .*split_of_mine'),
        ('datasets.train.score_column=moss', 'datasets.train: .*moss'),
        ('datasets.train.augment.hflap=true', "datasets.train: .*no transform 'hflap'"),
        ('network.backbone=vit_tny', "network: timm knows no backbone 'vit_tny'"),
        ('network.backbone_weights=gone.pth', 'network: backbone_weights: there is no file gone.pth'),
        ('network.injection_options.heads=7', 'network: embed_dim must be divisible'),
        ('network.injection=none', "network: guide 'saliency' with injection 'none' is not possible"),
        (
            'train.optim.lr_gide=0.1',
            "train.optim.lr_gide: no trained parameter has 'gide' in its name; the trained parts are: ",
        ),
        ('train.optim.lr_backbone=0.1', 'train.optim.lr_backbone: no trained parameter'),
        ('path.pretrain_network=gone.pth', 'path.pretrain_network: there is no file gone.pth'),
        ('path.resume_state=gone.state', 'path.resume_state: there is no file gone.state'),
    ],
)
def test_what_a_file_names_and_is_not_there_or_does_not_fit_is_told(change, sentence, small):
    with pytest.raises(ValueError, match=f"the training 'table1_cgi_msfa': {sentence}"):
        small(change)


def test_a_pretrained_network_has_to_fit_the_network_and_its_frozen_weights(small, tmp_path):
    options = {'backbone': 'vit_tiny_patch16_224', 'backbone_weights': 'random', 'input_size': 64}
    options |= {'guide': 'saliency', 'injection': 'cgi'}
    torch.manual_seed(1)
    net = AlignIQA(**options)
    torch.save({'params': net.state_dict()}, tmp_path / 'part.pth')
    with pytest.raises(ValueError, match='part.pth does not fit the network: .*other frozen weights in backbone'):
        small(f'path.pretrain_network={tmp_path / "part.pth"}')
    torch.save({'params': net.whole_state()}, tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match='whole.pth holds other weights of the frozen backbone'):
        small(f'path.pretrain_network={tmp_path / "whole.pth"}')
    torch.save({'params': AlignIQA(**options, stages=3).state_dict()}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='other.pth does not fit the network: .*stages: 3, this one has 4'):
        small(f'path.pretrain_network={tmp_path / "other.pth"}')


def test_a_command_with_a_bad_file_ends_with_status_2_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ['train', '--opt', str(GOOD), '--set', 'train.optim.lrr=1'])
    assert result.exit_code == 2
    assert result.stderr == f'align-iqa train: {GOOD}: train.optim.lrr: there is no such key; did you mean lr?\n'
    result = CliRunner().invoke(app, ['train', '--opt', str(GOOD)])
    assert result.exit_code == 2
    assert "align-iqa train: the training 'table1_cgi_msfa': 2 problems" in result.stderr
    assert list(tmp_path.iterdir()) == []
