import copy
import os
import signal

import numpy as np
import pytest
import torch
from pyiqa.data import build_dataset

from align_iqa_plugin.archs.pretrained import create_align_iqa
from align_iqa_plugin.data.feature_cache import TrunkCache
from align_iqa_plugin.models import align_iqa_model, trainer
from align_iqa_plugin.models.adaptation import Adaptation
from align_iqa_plugin.models.fit import fit_head, rated_features
from align_iqa_plugin.models.losses import order_loss
from align_iqa_plugin.models.trainer import train
from align_iqa_plugin.models.training_state import latest_training_state
from align_iqa_plugin.runtime.interval import Z
from align_iqa_plugin.runtime.seeds import seed_everything

CPU = torch.device('cpu')


@pytest.fixture
def options(tiny_options):
    """Guide, injection and pyramid are adapted, then the kernel head is fitted."""
    tiny_options['network']['head'] = 'kernel'
    tiny_options['datasets']['train']['with_copy'] = True
    tiny_options['train'] |= {'adapt_alpha': 10.0, 'order_share': 0.3}
    return tiny_options


def network(options, **weights):
    seed_everything(options['manual_seed'])  # the random backbone of the training
    return create_align_iqa(**weights, **{key: value for key, value in options['network'].items() if key != 'type'}).eval()


def models(root):
    return root / 'experiments' / 'tiny' / 'models'


@pytest.fixture(scope='module')
def run(tiny_training_file, tmp_path_factory):
    """A training, its options and its folder."""
    root, options = tmp_path_factory.mktemp('adapted'), copy.deepcopy(tiny_training_file)
    options['network']['head'] = 'kernel'
    options['datasets']['train']['with_copy'] = True
    options['train'] |= {'adapt_alpha': 10.0, 'order_share': 0.3, 'trunk_cache': str(root / 'trunk')}
    return train(options, root=root), options, root


def test_each_image_is_scored_by_a_head_that_never_saw_its_prompt(options):
    net, dataset = network(options), build_dataset(options['datasets']['train'] | {'phase': 'train'})
    adaptation = Adaptation(net, alpha=10.0, trunk_cache=None)
    adaptation.start(dataset)
    rated = rated_features(net, dataset, device=CPU)
    pooled, mos = rated.features[:, : net.msfa.pooled_width].double().numpy(), rated.targets[:, 0].double().numpy()
    y = (mos - mos.mean()) / mos.std(ddof=1)
    scores = adaptation.heads(rated.features, rated.folds).detach().numpy()
    for fold in set(rated.folds.tolist()):
        seen = rated.folds.numpy() != fold
        mean, std = pooled[seen].mean(0), pooled[seen].std(0, ddof=1).clip(1e-6)
        x = (pooled - mean) / std
        gram = x[seen] @ x[seen].T + 10.0 * seen.mean() * np.eye(seen.sum())
        expected = x[~seen] @ x[seen].T @ np.linalg.solve(gram, y[seen] - y[seen].mean()) + y[seen].mean()
        np.testing.assert_allclose(scores[~seen], expected, atol=1e-3)


def test_guide_injection_and_pyramid_are_trained_and_the_rest_stays(run):
    _, options, root = run
    before, after = (
        network(options),
        network(options, pretrained_model_path=str(models(root) / 'net_latest.pth')),
    )
    same = {name for name, p in after.named_parameters() if torch.equal(p, dict(before.named_parameters())[name])}
    assert not [name for name in same if name.startswith(('injection.', 'guide.'))]
    assert all(name in same for name, _ in after.named_parameters() if name.startswith('backbone.'))
    assert not [name for name in same if name.startswith('msfa.')]


def test_after_the_last_step_the_head_is_fitted(run):
    best, options, root = run
    state = torch.load(models(root) / 'net_best.pth', weights_only=True)['params']
    assert len(state['head.support_vectors']) > 28 and state['head.coefficients'].any()
    net = network(options, pretrained_model_path=str(models(root) / 'net_best.pth'))
    dataset = build_dataset(options['datasets']['val'] | {'phase': 'val'})
    assert net.is_trained
    with torch.no_grad():
        assert all(net(dataset[place]['img'][None]).isfinite() for place in range(len(dataset)))


def test_the_head_is_fitted_to_images_without_augmentation_and_copies(options, tmp_path):
    options['datasets']['train']['augment'] = {'hflip': True}
    train(options, root=tmp_path)
    net = network(options, pretrained_model_path=str(models(tmp_path) / 'net_best.pth'))
    fitted = net.head.state_dict()
    section = {key: value for key, value in options['datasets']['train'].items() if key not in ('augment', 'with_copy')}
    train_options = options['train']
    fit_head(
        net,
        build_dataset(section | {'phase': 'train'}),
        alpha=train_options['ridge_alpha'],
        device=CPU,
        order_share=train_options['order_share'],
    )
    for name, value in net.head.state_dict().items():
        if name != 'error_scale':  # of the deviation, which is calibrated afterwards
            torch.testing.assert_close(value, fitted[name], atol=1e-3, rtol=1e-3)


def assert_calibrated_on_validation_images(root, options):
    net = network(options, pretrained_model_path=str(models(root) / 'net_best.pth'))
    rated = rated_features(net, build_dataset(options['datasets']['val'] | {'phase': 'val'}), device=CPU)
    with torch.no_grad():
        errors, deviation = (net.head(rated.features) - rated.targets)[:, 0], net.head.deviation(rated.features)[:, 0]
    assert (errors.abs() / deviation).quantile(0.9) == pytest.approx(Z, rel=1e-3)


def test_the_deviation_is_calibrated_on_the_validation_images(run):
    assert_calibrated_on_validation_images(run[2], run[1])


def test_of_two_views_the_whole_is_adapted_and_a_head_is_fitted_to_each(options, tmp_path):
    options['network'] |= {'views': 2, 'guided_views': 1}
    options['datasets']['train']['input_size'] = options['datasets']['val']['input_size'] = None
    train(options, root=tmp_path)
    net = network(options, pretrained_model_path=str(models(tmp_path) / 'net_best.pth'))
    whole, centre = net.head.heads
    assert net.is_trained and len(centre.mean) == net.msfa.pooled_width
    assert centre.weight.any() and whole.weight[net.msfa.pooled_width :].any()
    last = torch.load(models(tmp_path) / 'net_latest.pth', weights_only=True)['params']
    assert all(last[f'injection.{block}.gate'].any() for block in net.injection)


@pytest.mark.parametrize('guided', [True, False])
def test_the_cached_trunk_gives_the_features_of_the_whole_network(guided, options, tmp_path):
    if not guided:
        options['network'] |= {'guide': 'none', 'injection': 'none', 'guide_options': {}, 'injection_options': {}}
    net, dataset = network(options), build_dataset(options['datasets']['train'] | {'phase': 'train'})
    for layer in net.injection.values() if guided else ():
        torch.nn.init.normal_(layer.gate)
    whole = rated_features(net, dataset, device=CPU).features
    cached = Adaptation(net, alpha=1.0, trunk_cache=str(tmp_path))
    for _ in range(2):  # computed, then read
        features = rated_features(net, dataset, device=CPU, forward=cached.features).features
        torch.testing.assert_close(features, whole, atol=0.02, rtol=0.02)  # half precision
    assert len([*tmp_path.iterdir()]) == len(dataset)


def test_a_cache_of_the_trunk_needs_blocks_before_the_first_injection(options, tmp_path):
    options['network']['injection_options']['blocks'] = [0, 5]
    with pytest.raises(ValueError, match='train.trunk_cache needs a frozen backbone, and no guidance that enters'):
        TrunkCache(tmp_path, network(options))


def test_a_training_that_is_cut_off_ends_as_one_that_is_not(run, monkeypatch):
    _, options, root = run
    step = trainer.AlignIQAModel.optimize_parameters

    def interrupted(model, iteration):
        if iteration == 6:
            raise FloatingPointError('here')
        step(model, iteration)

    monkeypatch.setattr(trainer.AlignIQAModel, 'optimize_parameters', interrupted)
    options = copy.deepcopy(options)
    options['logger']['save_checkpoint_freq'] = 2
    with pytest.raises(trainer.TrainingError):
        train(options, root=root / 'again')
    monkeypatch.setattr(trainer.AlignIQAModel, 'optimize_parameters', step)
    train(options, root=root / 'again', resume=True)
    one, other = (latest_training_state(place / 'experiments/tiny/training_states') for place in (root, root / 'again'))
    assert all(torch.equal(one['model']['net'][name], value) for name, value in other['model']['net'].items())
    files = [torch.load(models(place) / 'net_best.pth', weights_only=True)['params'] for place in (root, root / 'again')]
    assert all(torch.equal(files[0][name], value) for name, value in files[1].items())


def test_a_signal_stops_the_fit_after_the_last_step_and_resume_makes_up_for_it(run, monkeypatch):
    _, options, root = run
    fit = align_iqa_model.fit_head

    def stopped(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return fit(*args, **options)

    monkeypatch.setattr(align_iqa_model, 'fit_head', stopped)
    with pytest.raises(trainer.Interrupted, match='stopped at once'):
        train(copy.deepcopy(options), root=root / 'stopped')
    monkeypatch.setattr(align_iqa_model, 'fit_head', fit)
    train(copy.deepcopy(options), root=root / 'stopped', resume=True)
    files = [torch.load(models(place) / 'net_best.pth', weights_only=True)['params'] for place in (root, root / 'stopped')]
    assert all(torch.equal(files[0][name], value) for name, value in files[1].items())


def test_a_head_is_fitted_to_other_data_with_the_adapted_network(run, tmp_path):
    _, options, root = run
    options = copy.deepcopy(options)
    options['path']['pretrain_network'] = str(models(root) / 'net_best.pth')
    options['train'] |= {'total_iter': 0, 'frozen_cache': str(tmp_path / 'cache')}
    options['datasets']['train'] |= {'split_index': 2, 'with_copy': False}
    train(options, root=tmp_path)
    adapted, fitted = (torch.load(models(place) / 'net_best.pth', weights_only=True)['params'] for place in (root, tmp_path))
    assert all(torch.equal(fitted[name], adapted[name]) for name in adapted if name.startswith(('guide', 'inj', 'msfa')))
    assert fitted['head.weight'][network(options).msfa.pooled_width :].any()  # it reads the pyramid too
    assert not torch.equal(fitted['head.bias'], adapted['head.bias'])
    assert_calibrated_on_validation_images(tmp_path, options)
    assert len([*(tmp_path / 'cache').iterdir()]) > 28  # of a network that is not trained any more, all features are kept


def test_the_order_costs_nothing_where_copies_lose_enough_and_changes_nothing():
    lost = torch.tensor([0.5, 0.1, 0.0])
    assert order_loss(torch.tensor([1.0, 3.0, 0.0]), lost) == 0
    assert order_loss(torch.tensor([0.0, 3.0, 0.0]), lost) == pytest.approx(1 / 3)
    assert order_loss(torch.tensor([1.0, 3.0, -0.3]), lost, weight=2.0) == pytest.approx(0.06)
