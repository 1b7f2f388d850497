import csv
import random

import pytest
import timm
import torch
import yaml
from PIL import Image
from pyiqa.models import build_model
from safetensors.torch import save_file

from align_iqa_plugin.align_iqa_arch import AlignIQA
from align_iqa_plugin.frozen_cache import FrozenCache


@pytest.fixture(scope='session')
def network(tmp_path_factory):
    """Options of a small network. The weights of its backbone are a file: pyiqa builds the network twice."""
    path = tmp_path_factory.mktemp('backbone') / 'backbone.safetensors'
    torch.manual_seed(0)
    save_file(timm.create_model('vit_tiny_patch16_224', num_classes=0).state_dict(), path)
    return {
        'backbone': 'vit_tiny_patch16_224',
        'backbone_weights': str(path),
        'input_size': 64,
        'aggregation_options': {'channels': 8},
    }


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """A data set as AGIQA-3K is released, of 40 images whose brightness is their score."""
    root = tmp_path_factory.mktemp('data')
    (root / 'images').mkdir()
    generator = random.Random(0)
    rows = []
    for i in range(40):
        shade = generator.randrange(256)
        image = Image.effect_noise((64, 64), 40).convert('RGB')
        Image.blend(image, Image.new('RGB', image.size, (shade,) * 3), 0.8).save(root / 'images' / f'{i:03}.png')
        rows.append({'name': f'{i:03}.png', 'prompt': f'prompt {i // 2}', 'mos_quality': shade / 51})
    with (root / 'data.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture
def options(images, network, tmp_path):
    section = {
        'type': 'AIGCIQADataset',
        'dataroot_target': str(images),
        'meta_info_file': str(images / 'data.csv'),
        'score_column': 'mos_quality',
        'image_column': 'name',
        'split_index': 1,
        'split_ratio': '712',
        'batch_size_per_gpu': 8,
        'num_worker_per_gpu': 0,
    }
    for name in ('models', 'training_states'):
        (tmp_path / name).mkdir()
    return {
        'num_gpu': 0,
        'dist': False,
        'rank': 0,
        'is_train': True,
        'model_type': 'AlignIQAModel',
        'network': {'type': 'AlignIQA', **network},
        'datasets': {
            'train': {**section, 'name': 'tiny', 'phase': 'train'},
            'val': {**section, 'name': 'tiny_val', 'phase': 'val'},
        },
        'path': {'models': str(tmp_path / 'models'), 'training_states': str(tmp_path / 'training_states')},
        'train': {
            'optim': {'type': 'AdamW', 'lr': 1e-3},
            'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 2},
            'mos_loss_opt': {'type': 'MSELoss'},
        },
        'val': {'key_metric': 'srcc', 'metrics': {'srcc': {'type': 'calculate_srcc'}}},
    }


def build(options, **train):
    torch.manual_seed(0)
    options['train'].update(train)
    return build_model(options)


def batches(options, phase='train'):
    from pyiqa.data import build_dataloader, build_dataset

    dataset = build_dataset(options['datasets'][phase])
    return build_dataloader(dataset, {**options['datasets'][phase], 'phase': 'val'})


def step(model, batch, iteration=1):
    model.feed_data(batch)
    model.optimize_parameters(iteration)


def test_the_prompts_reach_the_network(options):
    model = build(options)
    seen = []
    model.net.register_forward_pre_hook(lambda m, a, kwargs: seen.append(kwargs['caption_list']), with_kwargs=True)
    batch = next(iter(batches(options)))
    step(model, batch)
    assert seen == [batch['prompt']]


def test_a_step_changes_what_is_trained_and_nothing_that_is_frozen(options):
    model = build(options, ridge_alpha=10.0)
    frozen = {name: p.clone() for name, p in model.net.backbone.named_parameters()}
    before = {name: p.clone() for name, p in model.net.named_parameters() if p.requires_grad}
    for iteration, batch in enumerate([*batches(options)] * 3, 1):
        step(model, batch, iteration)
    assert all(torch.equal(p, frozen[name]) for name, p in model.net.backbone.named_parameters())
    still = [name for name, p in model.net.named_parameters() if name in before and torch.equal(p, before[name])]
    assert not still


def test_the_training_starts_as_the_linear_probe_and_saves_it(options, network, tmp_path):
    model = build(options, ridge_alpha=10.0)
    batch = next(iter(batches(options)))
    probe = AlignIQA(**network, pretrained_model_path=str(tmp_path / 'models' / 'net_start.pth')).eval()
    expected = probe.head.probe(
        probe.head.probe.standardise(probe.features(batch['img'], None, *probe.plain_blocks(batch['img'])))
    )
    model.net.eval()
    torch.testing.assert_close(model.net(batch['img']), expected)
    assert expected.std() > 0.1


def test_the_targets_are_shifted_by_what_the_probe_gains_from_having_seen_an_image(options):
    model = build(options, ridge_alpha=10.0)
    batch = next(iter(batches(options)))
    model.net.eval()
    residual = batch['mos_label'] - model.net(batch['img'])
    step(model, batch)
    shifted = model.gt_mos - model.net.head.probe(
        model.net.head.probe.standardise(model.net.features(batch['img'], None, *model.net.plain_blocks(batch['img'])))
    )
    assert shifted.square().mean() > 1.2 * residual.square().mean()


def test_with_the_cache_the_scores_are_the_same_to_half_precision(options, tmp_path):
    plain, cached = (build(options, ridge_alpha=10.0, frozen_cache=cache) for cache in (None, tmp_path / 'cache'))
    for batch in batches(options):
        for model in (plain, cached):
            model.net.eval()
            model.feed_data(batch)
        torch.testing.assert_close(cached.net_forward(cached.net), plain.net_forward(plain.net), atol=1e-2, rtol=1e-2)


def test_the_cache_runs_the_frozen_blocks_once_an_image(options, tmp_path):
    model = build(options, frozen_cache=str(tmp_path / 'cache'))
    calls = []
    model.net.backbone.vit.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        for batch in batches(options):
            step(model, batch)
    assert len(calls) == len(batches(options))
    assert len(list((tmp_path / 'cache').iterdir())) == len(batches(options).dataset)


def test_the_cache_knows_another_network_and_a_changed_image(images, network, tmp_path):
    one = AlignIQA(**network)
    cache = FrozenCache(tmp_path, one)
    path = str(images / 'images' / '000.png')
    copy = tmp_path / 'copy.png'
    copy.write_bytes((images / 'images' / '000.png').read_bytes())
    before = cache._file(str(copy))
    copy.write_bytes(copy.read_bytes() + b' ')
    assert cache._file(str(copy)) != before
    assert FrozenCache(tmp_path, AlignIQA(**network | {'backbone_weights': 'random'}))._file(path) != cache._file(path)
    assert FrozenCache(tmp_path, AlignIQA(**network))._file(path) == cache._file(path)


def test_a_cache_of_augmented_images_is_refused(options, tmp_path):
    options['datasets']['train']['augment'] = {'hflip': True}
    with pytest.raises(ValueError, match='leave out datasets.train.augment'):
        build(options, frozen_cache=str(tmp_path))


def test_a_cache_of_a_trained_backbone_is_refused(options, tmp_path):
    options['network']['freeze_backbone'] = False
    with pytest.raises(ValueError, match='freeze_backbone: true'):
        build(options, frozen_cache=str(tmp_path))


def test_validation_scores_the_averaged_weights_and_keeps_them_as_best(options, tmp_path):
    model = build(options, ridge_alpha=10.0, ema_decay=0.9)
    for iteration, batch in enumerate([*batches(options)] * 3, 1):
        step(model, batch, iteration)
    current = model.net.injection.blocks[0].gate.clone()
    loader = batches(options, 'val')
    model.validation(loader, 1, None)
    best = torch.load(tmp_path / 'models' / 'net_best.pth', weights_only=True)['params']
    assert torch.equal(best['injection.blocks.0.gate'], model.average['injection.blocks.0.gate'])
    assert torch.equal(model.net.injection.blocks[0].gate, current)
    assert not torch.equal(best['injection.blocks.0.gate'], current)


def test_two_runs_with_one_seed_are_one(options, tmp_path):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build(yaml.safe_load(yaml.safe_dump(options)), ridge_alpha=10.0, ema_decay=0.9)
        for iteration, batch in enumerate(batches(options), 1):
            step(model, batch, iteration)
        states.append(model.net.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
