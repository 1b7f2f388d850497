import copy
import inspect
import logging
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyiqa.archs import build_network
from pyiqa.utils import get_root_logger
from typer.testing import CliRunner

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import checkpoint_state, full_state, load_checkpoint
from align_iqa_plugin.archs.weights import read_weights
from align_iqa_plugin.cli import app
from align_iqa_plugin.data import training_images
from align_iqa_plugin.data.dataset_options import DatasetOptions
from align_iqa_plugin.models.options import (
    LoggerOptions,
    Options,
    Paper,
    PathOptions,
    TrainOptions,
    ValOptions,
    read_options,
)
from align_iqa_plugin.models.options_check import check_options
from align_iqa_plugin.models.options_file import dump, parse, read_file
from align_iqa_plugin.runtime.files import file_digest

FOLDER = Path(__file__).resolve().parents[2] / 'options' / 'train' / 'AlignIQA'
FILES = sorted(FOLDER.glob('*.yml'))
GOOD = FOLDER / 'table1_cgi_msfa.yml'


@pytest.fixture
def file(tmp_path):
    """Writes options, or a text, to a file."""

    def write(options, name='a.yml'):
        path = tmp_path / name
        path.write_text(options if isinstance(options, str) else yaml.safe_dump(options), encoding='utf-8')
        return path

    return write


def problems(path, *overrides):
    with pytest.raises(ValueError) as error:
        read_options(path, overrides)
    return str(error.value)


# the files of this package


def test_there_is_a_file_for_every_row_of_the_tables_1_to_4():
    options = [read_file(file) for file in FILES]
    rows = [content['paper']['row'] for content in options if 'paper' in content]
    assert [sum(f'table {number}, ' in row for row in rows) for number in (1, 2, 3, 4)] == [6, 3, 3, 3]
    for file in FILES:
        header = file.read_text(encoding='utf-8').split('\n_base_:')[0]
        for word in ('reported: ', 'measured here: ', f'command: align-iqa train --opt options/train/AlignIQA/{file.name}'):
            assert word in header


DATA = {
    'type': 'AIGCIQADataset',
    'dataroot_target': 'datasets/AGIQA-3K',
    'split_index': 1,
    'split_ratio': '712',
    'batch_size_per_gpu': 16,
    'num_worker_per_gpu': 0,
}
SHARED = {
    'model_type': 'AlignIQAModel',
    'num_gpu': 'auto',
    'manual_seed': 0,
    'datasets': {'train': DATA | {'name': 'agiqa3k', 'use_shuffle': True}, 'val': DATA | {'name': 'agiqa3k_val'}},
    'path': {'pretrain_network': None, 'strict_load': True, 'resume_state': None},
    'val': {
        'val_freq': 65,
        'save_img': False,
        'key_metric': 'srcc',
        'metrics': {'srcc': {'type': 'calculate_srcc'}, 'plcc': {'type': 'calculate_plcc'}},
    },
    'logger': {'print_freq': 10, 'save_latest_freq': 1000000, 'use_tb_logger': False},
}
NETWORK = {
    'type': 'AlignIQA',
    'backbone': 'vit_base_patch16_clip_quickgelu_224',
    'backbone_weights': 'packaged',
    'guide': 'none',
    'injection': 'none',
    'aggregation': 'stage_pool',  # msfa in 0.3.0
    'head': 'kernel',
}
FITTED = {'ridge_alpha': 0.2, 'frozen_cache': '~/.cache/align_iqa', 'total_iter': 0}
OPTIM = {'type': 'AdamW', 'lr': 0.002, 'weight_decay': 0.05}
TRAINED = FITTED | {
    'ema_decay': 0.98,
    'total_iter': 130,
    'optim': OPTIM,
    'schedule_by': 'iteration',
    'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 130},
    'mos_loss_opt': {'type': 'MSELoss'},
}
GATED = TRAINED | {'optim': OPTIM | {'lr_gate': 0.01}}
WITH_MLP = TRAINED | {'optim': OPTIM | {'lr_head': 0.0001, 'weight_decay_head': 0.05}}
CLIP = {'vlm': 'ViT-B-16-quickgelu', 'vlm_pretrained': 'openai'}
CGI = {'guide': 'saliency', 'injection': 'cgi'}
CGI_LAST = CGI | {'injection_options': {'blocks': [11]}}  # the default in 0.3.0
VPT = {'guide': 'saliency'}  # before the last block in 0.3.0
EXPECTED = {
    'table1_msfa': ({}, FITTED),  # align_iqa in 0.3.0
    'linear_probe': ({'head': 'linear'}, FITTED | {'ridge_alpha': 10000}),
    'semantic': ({'guide': 'semantic', 'guide_options': CLIP, 'injection': 'cgi'}, GATED),
    'table1_cgi': (CGI_LAST | {'stages': 1}, GATED),  # aggregation none in 0.3.0
    'table1_cgi_msfa': (CGI_LAST, GATED),
    'table1_neither': ({'stages': 1}, FITTED),  # aggregation none in 0.3.0
    'table2_dinov2_small': ({'backbone': 'vit_small_patch14_dinov2', 'backbone_weights': 'hub'}, FITTED),
    'table2_vit_small': ({'backbone': 'vit_small_patch16_224.augreg_in21k_ft_in1k', 'backbone_weights': 'hub'}, FITTED),
    'table2_vit_tiny': ({'backbone': 'vit_tiny_patch16_224.augreg_in21k_ft_in1k', 'backbone_weights': 'hub'}, FITTED),
    'table3_vpt_add': (VPT | {'injection': 'vpt_add'}, TRAINED),
    'table3_vpt_concat': (VPT | {'injection': 'vpt_concat'}, TRAINED),
    'table4_last_map': ({'aggregation': 'msfa', 'stages': 1, 'head': 'mlp'}, WITH_MLP),  # aggregation last_map in 0.3.0
    'table4_msfa_pyramid': ({'aggregation': 'msfa', 'head': 'mlp'}, WITH_MLP),  # aggregation msfa_pyramid in 0.3.0
}


@pytest.mark.parametrize('name', EXPECTED)
def test_a_file_says_without_a_warning_what_it_said_in_version_0_3_0(name, caplog):
    file = FOLDER / f'{name}.yml'
    options = read_options(file)
    paper = options.pop('paper', None)
    network, train = EXPECTED[file.stem]
    assert options == {'name': file.stem, **SHARED, 'network': NETWORK | network, 'train': train}
    assert (paper is None) == (file.stem in ('linear_probe', 'table2_dinov2_small'))
    assert caplog.records == []


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_file_is_read_without_a_warning(file, caplog):
    read_options(file)
    assert caplog.records == []


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_file_builds_and_takes_training_steps_that_lower_the_loss(file, tiny_vlm):
    options = read_file(file)
    network = options['network'] | {'backbone': 'vit_tiny_patch16_224', 'backbone_weights': 'random', 'input_size': 32}
    if network['guide'] == 'semantic':
        network['guide_options'] = tiny_vlm
    torch.manual_seed(0)
    net = build_network(network)
    image, mos = torch.rand(4, 3, 32, 32), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    prompts = ['a cat', 'a dog', None, '']
    with torch.no_grad():
        vectors = net.forward_features(image, prompts)
    net.head.fit(vectors, mos, alpha=float(options['train']['ridge_alpha']), folds=[0, 1, 2, 3])
    trained = [p for p in net.parameters() if p.requires_grad]
    assert trained or not options['train']['total_iter']
    if not options['train']['total_iter']:
        return
    optimizer = torch.optim.AdamW(trained, 1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (net.train()(image, caption_list=prompts) - mos.flip(0)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(('file', 'weights'), [('align_iqa.yml', 'packaged'), ('align_iqa_fast.yml', 'packaged-fast')])
def test_a_packaged_model_is_the_network_of_its_file(file, weights):
    network = AlignIQA(**{key: value for key, value in read_file(FOLDER / file)['network'].items() if key != 'type'})
    load_checkpoint(network, read_weights(weights, 'weights'), weights)
    assert network.is_trained


def test_the_fast_packaged_model_is_the_default_network():
    network = read_file(FOLDER / 'align_iqa_fast.yml')['network']
    defaults = {name: p.default for name, p in inspect.signature(AlignIQA).parameters.items()}
    assert {key: value for key, value in network.items() if key != 'type'}.items() <= defaults.items()


@pytest.mark.parametrize(
    'model', [Options, PathOptions, TrainOptions, ValOptions, LoggerOptions, Paper, DatasetOptions], ids=lambda m: m.__name__
)
def test_every_key_is_described(model):
    assert all(field.description for field in model.model_fields.values())


# what a file may say


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ('nam=x', "nam: unknown key; did you mean 'name'?"),
        ('name=a/b', "name is 'a/b'"),
        ('num_gpu=-1', 'num_gpu should be '),
        ('num_gpu=true', 'num_gpu should be '),
        ('model_type=AlignIQAModl', "model_type: unknown model 'AlignIQAModl'; did you mean 'AlignIQAModel'?"),
        ('datasets.val.input_size=336', 'datasets.val.input_size is 336, and network.input_size 224'),
        ('path=3', 'path should be a section of keys, not 3.'),
        ('path.pretrained_network=x', "path.pretrained_network: unknown key; did you mean 'pretrain_network'?"),
        ('datasets.valid.name=x', "datasets.valid: unknown key; did you mean 'val'?"),
        ('datasets.val=~', 'datasets.val should be a section of keys, not None.'),
        ('datasets.val.type=AIGCDataset', "datasets.val.type: unknown dataset 'AIGCDataset'"),
        ('datasets.val.split_indx=2', "datasets.val.split_indx: unknown key; did you mean 'split_index'?"),
        ('datasets.val.split_index=0', 'datasets.val.split_index should be '),
        ('datasets.val.split_ratio=90', 'datasets.val.split_ratio is 90, not three digits'),
        ('datasets.val.phase=test', 'datasets.val.phase has no effect'),
        ('datasets.val.augment.hflap=true', 'datasets.val.augment.hflap: pyiqa has no transform'),
        (
            'datasets.train.batch_size_per_gpu=0',
            'datasets.train.batch_size_per_gpu should be greater than or equal to 1, not 0.',
        ),
        ('datasets.train.mos_range=[5, 0]', 'datasets.train.mos_range is [5, 0], not a list of the lowest and the highest'),
        ('datasets.train.mos_range=[5]', 'datasets.train.mos_range should '),
        ('datasets.train.mos_range=[a, 5]', "datasets.train.mos_range.0 should be a valid number, not 'a'."),
        ('datasets.train.dataroot_target=~', 'datasets.train.dataroot_target is needed'),
        ('network.gide=none', "network.gide: unknown key; did you mean 'guide'?"),
        ('network.guide=salincy', "network.guide: unknown name 'salincy'; did you mean 'saliency'?"),
        ('network.head=none', "network.head: unknown name 'none'; choose from kernel, linear, mlp."),
        ('network.stages=four', "network.stages should be a valid integer, not 'four'."),
        ('network.freeze_backbone=1', 'network.freeze_backbone should be a valid boolean, not 1.'),
        ('network.pretraind=true', "network.pretraind: unknown key; did you mean 'pretrained'?"),
        ('network.injection_options.heds=2', "network.injection_options.heds: unknown key; did you mean 'heads'?"),
        ('network.injection_options.width=2', 'network.injection_options.width: unknown key'),
        ('network.injection_options.blocks=[a]', "network.injection_options.blocks.0 should be a valid integer, not 'a'."),
        ('network.head_options.components=a', "network.head_options.components should be a valid integer, not 'a'."),
        ('train.emadecay=0.9', "train.emadecay: unknown key; did you mean 'ema_decay'?"),
        ('train.precision=fp8', "train.precision should be 'fp32', 'bf16' or 'fp16', not 'fp8'."),
        ('train.accumulate=0', 'train.accumulate should be greater than or equal to 1, not 0.'),
        ('train.total_iter=~', "train lacks the key 'total_epoch' (or total_iter)."),
        ('train.optim=~', "train lacks the key 'optim'."),
        ('train.trunk_cache=x', 'train.trunk_cache has no effect without train.adapt_alpha.'),
        ('datasets.train.with_copy=true', 'datasets.train.with_copy has no effect without train.adapt_alpha.'),
        ('train.order_weight=2', 'train.order_weight has no effect without train.order_share; the loss of with_copy has'),
        ('train.copy_weight=2', 'train.copy_weight has no effect without datasets.train.with_copy.'),
        ('train.invariance=0.5', 'train.invariance has no effect without train.invariance_share.'),
        (
            'train={total_iter: 0, invariance_share: 0.1, invariance: 1}',
            'train.invariance_share has no effect without train.ridge_alpha.',
        ),
        ('train.invariance_share=0.1', 'train.invariance_share has no effect without train.invariance.'),
        ('train={total_iter: 0, order_share: 0.1}', 'train.order_share has no effect without train.ridge_alpha.'),
        ('train.mos_loss_opt=~', "train lacks a loss, the key 'mos_loss_opt'"),
        ('train.mos_loss_opt.type=MSLoss', "train.mos_loss_opt.type: unknown name 'MSLoss'; did you mean 'MSELoss'?"),
        ('train.mos_loss_opt.loss_wait=2', "train.mos_loss_opt.loss_wait: unknown key; did you mean 'loss_weight'?"),
        ('train.mos_loss_opt.reduction=maximum', 'train.mos_loss_opt: MSELoss rejects its keys: '),
        ('train.optim.type=AdamV', "train.optim.type: unknown name 'AdamV'; did you mean 'Adam"),
        ('train.optim.type=Optimizer', "train.optim.type: unknown name 'Optimizer'"),
        ('train.optim={type: AdamW}', "train.optim lacks the key 'lr'."),
        ('train.optim.lr=fast', "train.optim.lr should be a valid number, not 'fast'."),
        ('train.optim.lr=.inf', 'train.optim.lr should be a finite number, not inf.'),
        ('train.optim.lr=-1', 'train.optim: AdamW rejects its keys: Invalid learning rate: -1'),
        ('train.optim.lr_head=-1', 'train.optim.lr_head should be greater than or equal to 0, not -1.'),
        ('train.optim.weight_decay_gide=0', 'train.optim.weight_decay_gide: unknown key'),
        ('train.optim.momentum=0.9', 'train.optim.momentum: unknown key'),
        ('train.optim.layer_decay=2', 'train.optim.layer_decay should be less than or equal to 1, not 2.'),
        ('train.scheduler.T_mx=3', "train.scheduler.T_mx: unknown key; did you mean 'T_max'?"),
        ('train.scheduler={type: StepLR}', "train.scheduler lacks the key 'step_size'."),
        (
            'train.scheduler={type: MultiStepLR, milestones: [1], restarts: [0, 1]}',
            'train.scheduler: MultiStepLR rejects its keys: restarts',
        ),
        ('val.key_metric=pcc', "val.key_metric is 'pcc', not one of srcc, plcc."),
        ('val.select_on=agiqa', "val.select_on is 'agiqa', not one of agiqa3k_val."),
        ('val.metrics={}', 'val.metrics should have at least 1 item'),
        ('val.metrics.srcc.type=calculate_src', "val.metrics.srcc.type: unknown name 'calculate_src'; did you mean"),
        ('val.metrics.srcc.beter=higher', "val.metrics.srcc.beter: unknown key; did you mean 'better'?"),
        ('val.metrics.plcc.fit_scale=cubic', 'val.metrics.plcc: calculate_plcc rejects its keys: '),
        ('logger.print_freq=often', "logger.print_freq should be a valid integer, not 'often'."),
    ],
)
def test_each_wrong_key_or_value_is_one_sentence(change, words):
    assert problems(GOOD, change).startswith(f'{GOOD}: {words}')


def test_a_cached_trunk_needs_images_that_are_always_the_same():
    cached = ['train.trunk_cache=x', 'train.adapt_alpha=1']
    read_options(GOOD, cached)
    sentence = f'{GOOD}: train.trunk_cache needs images that are always the same'
    assert problems(GOOD, *cached, 'datasets.train.augment={hflip: true}').startswith(sentence)


def test_two_views_need_whole_images():
    read_options(GOOD, ['network.views=2'])
    for size in ('224', '[224, 224]'):
        sentence = problems(GOOD, 'network.views=2', f'datasets.train.input_size={size}')
        assert 'datasets.train.input_size: would take the detail from the second of network.views: remove it.' in sentence
    read_options(GOOD, ['network.views=2', 'train.adapt_alpha=1'])


def test_all_problems_of_a_file_are_named_at_once():
    found = problems(GOOD, 'train.optim.lr=x', 'network.gide=none', 'logger.print_freq=0', 'nam=x')
    first, *rest = found.splitlines()
    assert first == f'{GOOD}: 4 problems'
    assert sorted(line.split()[0].rstrip(':') for line in rest) == [
        'logger.print_freq',
        'nam',
        'network.gide',
        'train.optim.lr',
    ]


def test_every_section_that_is_missing_is_named(file):
    for key in read_file(GOOD):
        if key not in ('manual_seed', 'num_gpu', 'paper'):
            options = read_file(GOOD)
            del options[key]
            assert f"the file lacks the key '{key}'." in problems(file(options))
    assert "datasets lacks the key 'val'." in problems(file(read_file(GOOD) | {'datasets': {}}))


def test_a_number_with_an_exponent_is_one_in_the_file_and_in_a_change(file):
    options = yaml.safe_dump(read_file(GOOD)).replace('lr: 0.002', 'lr: 1e-3').replace('val_freq: 65', 'val_freq: 2e2')
    options = read_options(file(options), ['train.optim.weight_decay=5E-2', 'train.scheduler.eta_min=1e-6'])
    assert options['train']['optim']['lr'] == 1e-3
    assert options['train']['optim']['weight_decay'] == 5e-2
    assert options['train']['scheduler']['eta_min'] == 1e-6
    assert options['val']['val_freq'] == 200 and isinstance(options['val']['val_freq'], int)
    assert isinstance(read_options(GOOD, ['train.ridge_alpha=10'])['train']['ridge_alpha'], int)


def test_a_change_reaches_its_key_and_no_other():
    changed = read_options(GOOD, ['datasets.train.split_index=2', 'network.injection_options.bottleneck=3'])
    assert changed['datasets']['train'].pop('split_index') == 2
    assert changed['network'].pop('injection_options') == {'blocks': [11], 'bottleneck': 3}
    expected = read_file(GOOD)
    del expected['network']['injection_options']
    del expected['datasets']['train']['split_index']
    assert changed == expected


@pytest.mark.parametrize('change', ['lr', '=3', 'train..lr=3', 'name.first=3', 'train.optim.lr=[1', 'name=!!python/name:os.x'])
def test_a_change_that_is_none_is_named(change):
    assert problems(GOOD, change).startswith(f"--set '{change}'")


@pytest.mark.parametrize(
    ('change', 'new'),
    [
        ('network.aggregation=msfa_pyramid', "'msfa'"),
        ('network.aggregation=last_map', 'network.aggregation: msfa with network.stages: 1'),
        ('network.aggregation=none', 'network.aggregation: stage_pool with network.stages: 1'),
        ('network.injection_options.first_block=9', 'blocks'),
        ('datasets.train.image_cache=folder', 'train.frozen_cache'),
        ('path.resume_state=1.state', '--resume'),
    ],
)
def test_a_name_of_an_older_version_is_refused_with_the_new_one(change, new):
    key = change.partition('=')[0]
    assert problems(GOOD, change).startswith(f'{GOOD}: {key}')
    assert new in problems(GOOD, change)


def test_a_head_that_is_fitted_to_a_pyramid_that_nothing_has_trained_is_warned_about(caplog):
    read_options(GOOD, ['network.aggregation=msfa'])
    assert [record.getMessage() for record in caplog.records][0].startswith(f'{GOOD}: network.aggregation: ')
    caplog.clear()
    read_options(GOOD, ['network.aggregation=msfa', 'path.pretrain_network=packaged'])
    assert caplog.records == []


@pytest.mark.parametrize(
    'change',
    [
        'find_unused_parameters=true',
        'scale=2',
        'train.use_ref=true',
        'val.pbar=true',
        'val.save_img=true',
        'logger.log_imgs_freq=3',
        'path.ignore_resume_networks=[net]',
        'path.param_key_g=net',
    ],
)
def test_a_key_without_any_effect_is_refused(change):
    key = change.partition('=')[0]
    assert problems(GOOD, change).startswith(f'{GOOD}: {key} has no effect')


def test_keys_that_pyiqas_own_training_alone_reads_are_warned_about_one_by_one(caplog):
    changes = [
        'datasets.train.prefetch_mode=cpu',
        'datasets.train.num_prefetch_queue=2',
        'datasets.val.persistent_workers=true',
    ]
    changes += ['logger.wandb.project=x', 'dist_params.backend=nccl']
    with caplog.at_level(logging.WARNING):
        read_options(GOOD, changes)
    warned = [record.getMessage() for record in caplog.records]
    keys = ['dist_params', 'logger.wandb', *(change.partition('=')[0] for change in changes[:3])]
    assert sorted(warned) == sorted(
        f'{GOOD}: {key} has no effect with align-iqa train: python -m pyiqa.train alone reads it.' for key in keys
    )
    caplog.clear()
    read_options(GOOD, ['datasets.train.prefetch_mode=~', 'datasets.val.persistent_workers=false', 'logger.wandb=~'])
    assert caplog.records == []


def test_data_sets_and_networks_of_pyiqa_take_any_key(file):
    options = read_file(GOOD)
    options['datasets']['val'] = {'name': 'x', 'type': 'GeneralNRDataset', 'split_file': 'x.pkl', 'whatever': 3}
    options['network'] = {'type': 'CNNIQA', 'ker_size': 7}
    assert read_options(file(options)) == options


def test_validation_sets_keep_their_order_since_the_first_one_counts(file):
    options = read_file(GOOD)
    val = options['datasets'].pop('val')
    options['datasets'] = {'val_2': val, 'val': val | {'name': 'x'}, 'train': options['datasets']['train']}
    path = file(yaml.safe_dump(options, sort_keys=False))
    assert list(read_options(path)['datasets']) == ['val_2', 'val', 'train']


# how a file is read


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'is not a training file'),
        ('- a', 'is not a training file'),
        ('name: a\nname: b', "not valid YAML: the key 'name' stands there twice"),
        ('train: {optim: {lr: 1, lr: 2}}', "the key 'lr' stands there twice"),
        ('1: a\n1: b', "the key '1' stands there twice"),
        ('a: [1', 'not valid YAML'),
        ('a: 2024-13-45', 'not valid YAML'),
        ('a: !!bool maybe', 'not valid YAML'),
        ('a: !!timestamp x', 'not valid YAML'),
        ('a: !!python/object/apply:os.getcwd []', 'not valid YAML'),
        ('a: &a [*a]', 'an anchor refers to itself'),
        ('a: &a {b: *a}', 'an anchor refers to itself'),
        ('a: ' + '[' * 5000, 'nested more than'),
        ('a: ' + '[' * 100 + ']' * 100, 'nested more than'),
        ('a: \x00', 'not valid YAML'),
        ('a: b\n---\na: c', 'not valid YAML'),
        ('a: ' + 'x' * 1_000_001, 'bytes'),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused(text, words, file):
    path = file(text)
    found = problems(path)
    assert found.startswith(str(path)) and words in found and '\n' not in found


@pytest.mark.parametrize('link', ['[{}]', '{{<<: [{}]}}'], ids=['lists', 'merged sections'])
def test_anchors_that_expand_to_a_huge_file_are_refused_before_they_do(link, file):
    names, lines = 'abcdefgh', ['a: &a {k: lol}']
    for above, name in zip(names, names[1:], strict=False):
        lines.append(f'{name}: &{name} ' + link.format(', '.join([f'*{above}'] * 10)))
    text = '\n'.join(lines)
    assert len(text) < 500
    assert 'once its anchors are expanded' in problems(file(text))


def test_a_change_of_a_section_does_not_reach_a_copy_of_it_by_an_anchor(file):
    text = f'{_without_datasets()}datasets: {{train: &data {DATA | {"name": "x"}}, val: *data}}\n'
    options = read_options(file(text), ['datasets.val.split_index=3'])
    assert (options['datasets']['train']['split_index'], options['datasets']['val']['split_index']) == (1, 3)


def test_a_merge_of_sections_is_no_key_twice(file):
    text = f'{_without_datasets()}datasets: {{train: &data {DATA | {"name": "x"}}, val: {{<<: *data, name: agiqa3k_val}}}}\n'
    val = read_options(file(text))['datasets']['val']
    assert val == DATA | {'name': 'agiqa3k_val'}


def _without_datasets():
    return yaml.safe_dump({key: value for key, value in read_file(GOOD).items() if key != 'datasets'})


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / 'a.yml').write_bytes(b'name: \xff')
    assert 'cannot be read' in problems(tmp_path / 'a.yml')


# _base_


def test_a_file_is_merged_with_its_base_section_by_section_and_may_leave_keys_of_it_out(file, tmp_path):
    (tmp_path / 'below').mkdir()
    file('a: {b: {c: 1, d: 2}, e: [1, 2], f: {g: 1}}\nh: {i: 1}\nj: 1', 'below/lowest.yml')
    file('_base_: lowest.yml\na: {b: {c: 3}}', 'below/base.yml')
    path = file('_base_: below/base.yml\na: {_delete_: [f], b: {_delete_: [d], k: 1}, e: [3]}\nh: ~\nj: {l: 1}\nm: {n: 1}')
    merged = {'a': {'b': {'c': 3, 'k': 1}, 'e': [3]}, 'h': None, 'j': {'l': 1}, 'm': {'n': 1}}
    assert read_file(path) == merged


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('_base_: gone.yml', '_base_: there is no file'),
        ('_base_: ~no such user/gone.yml', '~no such user/gone.yml.'),
        ('_base_: 3', '_base_ is 3, not the name of a file'),
        ('_base_: a.yml', '_base_ leads back to'),
        ('_base_: other.yml', '_base_ leads back to'),
        ('_base_: broken.yml', 'not valid YAML'),
        ('_base_: good.yml\nb: {_delete_: [d]}', "b._delete_: the base has no key 'd' there; choose from c."),
        ('_base_: good.yml\nb: {_delete_: c}', "b._delete_ is 'c', not a list of keys"),
        ('e: {_delete_: [d]}', "e._delete_: the base has no key 'd'"),
        ('_base_: 0.yml', 'are based on each other'),
    ],
)
def test_a_base_that_cannot_be_used_is_named(text, words, file):
    file('_base_: a.yml', 'other.yml')
    file('a: [1', 'broken.yml')
    file('b: {c: 1}', 'good.yml')
    for number in range(9):
        file(f'_base_: {number + 1}.yml', f'{number}.yml')
    found = problems(file(text))
    assert words in found and '\n' not in found


# --resolve


def resolve(option, output, *words):
    return CliRunner().invoke(app, ['train', '--opt', str(option), '--resolve', str(output), *words])


@pytest.mark.parametrize('option', FILES, ids=lambda file: file.stem)
def test_the_resolved_file_says_the_same_to_any_reader_of_yaml_and_nothing_is_trained(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = resolve(option, tmp_path / 'resolved.yml', '--set', 'train.ridge_alpha=1e-5')
    assert (result.exit_code, result.output) == (0, '')
    expected = read_options(option, ['train.ridge_alpha=1e-5'])
    assert yaml.safe_load((tmp_path / 'resolved.yml').read_text(encoding='utf-8')) == expected
    assert read_options(tmp_path / 'resolved.yml') == expected
    assert [path.name for path in tmp_path.iterdir()] == ['resolved.yml']


def test_a_resolved_file_that_cannot_be_written_ends_with_status_2(tmp_path):
    result = resolve(GOOD, tmp_path / 'nowhere' / 'resolved.yml')
    assert result.exit_code == 2
    assert result.stderr.startswith('align-iqa train: ') and 'nowhere' in result.stderr


PLAIN = st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.dates() | st.text(max_size=5)
VALUES = st.recursive(PLAIN, lambda inside: st.lists(inside) | st.dictionaries(PLAIN, inside))
KEYS = st.text(min_size=1, max_size=5).filter(lambda name: name != 'type')
WRITTEN = PLAIN.filter(lambda value: value == value) | st.from_regex(r'-?[0-9]+\.?[eE][-+]?[0-9]', fullmatch=True)
NESTED = st.recursive(WRITTEN, lambda inside: st.lists(inside, max_size=4) | st.dictionaries(KEYS, inside, max_size=4))


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(KEYS, NESTED, max_size=5))
def test_any_nested_section_stays_as_it_is_when_it_is_resolved(section):
    options = read_file(GOOD) | {'network': {'type': 'CNNIQA', **section}}
    with tempfile.TemporaryDirectory() as folder:
        given, resolved = Path(folder, 'given.yml'), Path(folder, 'resolved.yml')
        given.write_text(dump(options), encoding='utf-8')
        assert resolve(given, resolved).exit_code == 0
        assert read_options(resolved) == yaml.safe_load(resolved.read_text(encoding='utf-8')) == options
        assert parse(dump(options), 'text') == options


# any file is taken, or refused with one clean error


def sections(options, at=()):
    yield at, options
    for key, value in options.items():
        if isinstance(value, dict):
            yield from sections(value, (*at, key))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_unknown_key_is_named_wherever_it_stands(data):
    options = copy.deepcopy(CONTENT)
    at, section = data.draw(st.sampled_from(list(sections(options))))
    key = data.draw(st.from_regex('zz[a-z]{0,5}', fullmatch=True))
    section[key] = data.draw(st.integers() | st.text(max_size=3) | st.none())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'a.yml')
        path.write_text(dump(options), encoding='utf-8')
        assert problems(path).startswith(f'{path}: {".".join([*at, key])}')


CONTENT = read_file(GOOD)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_file_with_a_key_dropped_renamed_or_retyped_is_taken_or_refused_with_one_clean_error(data):
    options = copy.deepcopy(CONTENT)
    for _ in range(data.draw(st.integers(1, 3))):
        _, section = data.draw(st.sampled_from([place for place in sections(options) if place[1]]))
        key = data.draw(st.sampled_from(list(section)))
        value = section.pop(key)
        how = data.draw(st.sampled_from(['drop', 'rename', 'retype']))
        if how == 'rename':
            section[data.draw(st.sampled_from([3, None, True, '', 'x', f'{key}s', str(key)[1:], 'lr_', 'type']))] = value
        if how == 'retype':
            section[key] = data.draw(VALUES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'a.yml')
        file.write_text(yaml.safe_dump(options), encoding='utf-8')
        try:
            read = read_options(file)
        except ValueError as error:
            assert str(error).startswith((f'{file}: ', f'{file} is not '))
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
    options = read_file(GOOD)
    options['num_gpu'] = 0
    options['network'] |= {'backbone': 'vit_tiny_patch16_224', 'backbone_weights': 'random', 'input_size': 32}
    for section in options['datasets'].values():
        section |= {'dataroot_target': str(tmp_path), 'batch_size_per_gpu': 4}
    path = file(options)
    return lambda *changes: check_options(read_options(path, changes))


def test_a_training_whose_data_and_weights_are_there_passes_and_leaves_no_trace(small):
    state, level = torch.get_rng_state(), get_root_logger().level
    small()
    assert torch.equal(torch.get_rng_state(), state)
    assert get_root_logger().level == level


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ('datasets.val.dataroot_target=nowhere', 'datasets.val: .*nowhere'),
        ('datasets.train.batch_size_per_gpu=15', 'datasets.train.batch_size_per_gpu: a batch of 15 is more than the 14 images'),
        ('datasets.train.split_index=split_of_mine', 'datasets.train: .*split_of_mine'),
        ('datasets.train.score_column=moss', 'datasets.train: .*moss'),
        ('network.backbone=vit_tny', "network: .*'vit_tny'"),
        ('network.backbone_weights=gone.pth', 'network: backbone_weights: there is no file gone.pth'),
        ('network.backbone_weights=~no such user/gone.pth', 'network: backbone_weights: there is no file ~no such user'),
        ('network.injection_options.heads=7', 'network: embed_dim must be divisible'),
        ('network.injection=none', "network: guide 'saliency' .* injection 'none'"),
        (
            'train.optim.lr_gide=0.1',
            "train.optim.lr_gide: no trained parameter has 'gide' in its name; the trained parts are: ",
        ),
        ('train.optim.lr_backbone=0.1', 'train.optim.lr_backbone: no trained parameter'),
        ('path.pretrain_network=gone.pth', 'path.pretrain_network: there is no file gone.pth'),
    ],
)
def test_what_a_file_names_and_is_not_there_or_does_not_fit_is_named(change, sentence, small):
    with pytest.raises(ValueError, match=f"the training 'table1_cgi_msfa': {sentence}"):
        small(change)


def test_a_pretrained_network_has_to_fit_the_network_and_its_frozen_weights(small, tmp_path):
    options = {'backbone': 'vit_tiny_patch16_224', 'backbone_weights': 'random', 'input_size': 32}
    options |= {'injection_options': {'blocks': [11]}, 'aggregation': 'stage_pool'}
    torch.manual_seed(1)
    net = AlignIQA(**options)
    weights = {
        'part.pth': (checkpoint_state(net), 'other frozen weights in backbone'),
        'whole.pth': (full_state(net), 'it holds other weights of the frozen backbone'),
        'other.pth': (checkpoint_state(AlignIQA(**options, stages=3)), 'stages: 3'),
    }
    for name, (state, words) in weights.items():
        torch.save({'params': state}, tmp_path / name)
        with pytest.raises(ValueError, match=f'path.pretrain_network: .*{name}: .*{words}'):
            small(f'path.pretrain_network={tmp_path / name}')


def test_images_that_the_packaged_model_learned_from_cannot_validate_what_starts_from_it(small, tmp_path, monkeypatch):
    seen = {file_digest(path)[:16] for path in (tmp_path / 'images').iterdir()}
    monkeypatch.setattr(training_images, '_known', lambda: seen)
    small('path.strict_load=false')
    sentence = "datasets: the packaged model learned from 2 of the images of agiqa3k_val, .* 'packaged-fast'"
    with pytest.raises(ValueError, match=sentence):
        small('path.pretrain_network=packaged', 'path.strict_load=false')


def test_a_command_with_a_bad_file_ends_with_status_2_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ['train', '--opt', str(GOOD), '--set', 'train.optim.lrr=1'])
    assert result.exit_code == 2
    assert result.stderr == f"align-iqa train: {GOOD}: train.optim.lrr: unknown key; did you mean 'lr'?\n"
    result = CliRunner().invoke(app, ['train', '--opt', str(GOOD)])
    assert result.exit_code == 2
    assert "align-iqa train: the training 'table1_cgi_msfa': 2 problems" in result.stderr
    assert list(tmp_path.iterdir()) == []
