import copy
import math

import pytest
import torch
from pyiqa.data import build_dataloader, build_dataset
from pyiqa.models import build_model
from scipy import stats

from align_iqa_plugin.archs.head import KernelHead
from align_iqa_plugin.archs.pretrained import checkpoint_state, create_align_iqa
from align_iqa_plugin.data import training_images
from align_iqa_plugin.models.fit import fit_head
from align_iqa_plugin.runtime.files import file_digest


@pytest.fixture
def options(tiny_options, tmp_path):
    """The training file as pyiqa's command completes it."""
    tiny_options |= {'dist': False, 'rank': 0, 'is_train': True}
    tiny_options['path'] = {'models': str(tmp_path), 'training_states': str(tmp_path)}
    for phase, section in tiny_options['datasets'].items():
        section['phase'] = phase
    del tiny_options['train']['ridge_alpha'], tiny_options['train']['ema_decay']
    return tiny_options


def build(options, network=(), **train):
    options = copy.deepcopy(options)
    options['train'] |= train
    options['network'] |= network
    torch.manual_seed(0)
    return build_model(options)


READ = {}


def batches(options):
    """The batches of the training set, read once; each caller gets its own copy."""
    section = options['datasets']['train']
    if section['dataroot_target'] not in READ:
        READ[section['dataroot_target']] = [*build_dataloader(build_dataset(section), {**section, 'phase': 'val'})]
    return copy.deepcopy(READ[section['dataroot_target']])


def step(model, batch, iteration=1):
    model.feed_data(batch)
    model.optimize_parameters(iteration)


def trained(model):
    return {name: p.detach().clone() for name, p in model.trained.items()}


# One step


def test_the_prompts_reach_the_network(options):
    model, seen = build(options), []
    model.net.register_forward_pre_hook(lambda m, a, kwargs: seen.append(kwargs['caption_list']), with_kwargs=True)
    batch = batches(options)[0]
    step(model, batch)
    assert seen == [batch['prompt']]


def test_a_step_changes_what_is_trained_and_nothing_that_is_frozen(options):
    model = build(options, ridge_alpha=10.0)
    frozen = {name: p.clone() for name, p in model.net.backbone.named_parameters()}
    before = trained(model)
    assert not model.net.is_trained
    for iteration, batch in enumerate(batches(options)[:4], 1):
        step(model, batch, iteration)
    assert model.net.is_trained
    assert all(torch.equal(p, frozen[name]) for name, p in model.net.backbone.named_parameters())
    assert not [name for name, p in trained(model).items() if torch.equal(p, before[name])]


def test_two_models_of_one_seed_train_alike(options):
    states, read = [], batches(options)[:3]  # reading draws random numbers
    for _ in range(2):
        model = build(options, ridge_alpha=10.0, ema_decay=0.9)
        for iteration, batch in enumerate(copy.deepcopy(read), 1):
            step(model, batch, iteration)
        states.append(model.net.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(options):
    no_dropout = {'head_options': {'dropout': 0.0}}
    whole, parts = (build(options, no_dropout, accumulate=n, optim={'type': 'SGD', 'lr': 0.1}) for n in (1, 3))
    batch = batches(options)[0]
    for model in (whole, parts):
        step(model, batch)
    assert parts.log_dict['l_mos'] == pytest.approx(whole.log_dict['l_mos'])
    before = trained(build(options, no_dropout))
    moved = 0
    for name, value in trained(whole).items():
        torch.testing.assert_close(trained(parts)[name], value, rtol=1e-4, atol=1e-6)
        moved += not torch.equal(value, before[name])
    assert moved


def test_the_gradient_is_clipped(options):
    steps = []
    for norm in (None, 0.01):
        model = build(options, clip_grad_norm=norm, optim={'type': 'SGD', 'lr': 1.0})
        before = trained(model)
        step(model, batches(options)[0])
        steps.append(math.sqrt(sum((p - before[name]).square().sum() for name, p in trained(model).items())))
    assert steps[0] > 0.02
    assert steps[1] == pytest.approx(0.01, rel=1e-3)


def test_the_warm_up_is_linear_and_leaves_the_schedule_alone(options):
    options['train']['scheduler'] = {'type': 'StepLR', 'step_size': 3, 'gamma': 0.1}
    options['train']['optim'] = {'type': 'SGD', 'lr': 1e-4}
    model, used = build(options, warmup_iter=4), []
    model.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]['lr']))
    batch = batches(options)[0]
    for iteration in range(1, 7):
        step(model, batch, iteration)
    assert used == pytest.approx([2.5e-5, 5e-5, 7.5e-5, 1e-5, 1e-5, 1e-5])


@pytest.mark.parametrize(('unit', 'expected'), [('iteration', 2.5e-5), (None, 1e-4)])
def test_the_schedule_counts_iterations_or_epochs(unit, expected, options):
    options['train']['scheduler'] = {'type': 'StepLR', 'step_size': 1, 'gamma': 0.5}
    options['train']['optim'] = {'type': 'SGD', 'lr': 1e-4}
    model = build(options, schedule_by=unit)
    for iteration in (1, 2):
        step(model, batches(options)[0], iteration)
    assert model.get_current_learning_rate() == [expected]
    model.update_learning_rate(2)
    assert model.get_current_learning_rate() == [2.5e-5 if unit else 5e-5]


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_a_step_in_half_precision_is_near_that_in_single_precision(precision, options):
    no_dropout = {'head_options': {'dropout': 0.0}}
    whole, half = (build(options, no_dropout, ridge_alpha=10.0, precision=p) for p in ('fp32', precision))
    seen = []
    half.net.msfa.fuse[0].pointwise.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    for model in (whole, half):
        step(model, batches(options)[0])
    assert seen[-1] == (torch.bfloat16 if precision == 'bf16' else torch.float16)
    assert set(seen[:-1]) == {torch.float32}  # the head is fitted in full precision
    assert half.log_dict['l_mos'] == pytest.approx(whole.log_dict['l_mos'], rel=0.05)
    assert all(p.dtype == torch.float32 for p in half.trained.values())


def test_another_precision_is_an_error(options):
    with pytest.raises(ValueError, match='train.precision: unknown .*fp8'):
        build(options, precision='fp8')


def test_a_loss_that_is_not_finite_names_the_iteration_and_the_images_and_leaves_the_weights(options):
    model = build(options)
    batch = batches(options)[0]
    batch['targets'][2] = math.nan
    before = trained(model)
    with pytest.raises(FloatingPointError, match=r'loss .* at iteration 7; the images: \d{3}.png, \d{3}.png'):
        step(model, batch, 7)
    assert all(torch.equal(p, before[name]) for name, p in trained(model).items())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_lost(options):
    model = build(options)
    before = trained(model)
    model.trained['head.mlp.1.weight'].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match='gradient is not a finite number at iteration 3'):
        step(model, batches(options)[0], 3)
    assert all(torch.equal(p, before[name]) for name, p in trained(model).items())


def test_a_network_with_nothing_to_train_is_an_error(options):
    with pytest.raises(ValueError, match='no parameter to train'):
        build(
            options,
            {
                'guide': 'none',
                'guide_options': {},
                'injection': 'none',
                'injection_options': {},
                'aggregation': 'stage_pool',
                'aggregation_options': {},
                'head': 'linear',
            },
        )


# Several scores


class TwoScores(torch.nn.Module):
    """A network with two scores an image, each a parameter."""

    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, image, caption_list):
        return self.scores.expand(len(image), 2)


@pytest.fixture
def two_scores(options):
    """A model of two scores, and a batch of 4 images of which only the first has the second score."""
    options['train'] |= {'optim': {'type': 'SGD', 'lr': 0.0}, 'schedule_by': 'iteration'}
    model = build(options)
    model.net = TwoScores()
    model.trained = dict(model.net.named_parameters())
    batch = batches(options)[0]
    batch['targets'] = torch.tensor([[0.0, 5.0], [0.0, math.nan], [0.0, math.nan], [4.0, math.nan]])
    batch['target_mask'] = ~batch['targets'].isnan()
    return model, batch


@pytest.mark.parametrize('accumulate', [1, 2])
def test_the_loss_is_the_mean_over_the_scores_that_exist(two_scores, accumulate):
    model, batch = two_scores
    model.accumulate = accumulate
    step(model, batch)
    # column 0: errors 1, 1, 1, 3; column 1: error 3
    assert model.log_dict['l_mos'] == pytest.approx((12 / 4 + 9) / 2)
    torch.testing.assert_close(model.net.scores.grad, torch.tensor([0.0, -3.0]))


def test_scores_can_be_weighted(two_scores):
    model, batch = two_scores
    model.opt['train']['score_weights'] = [1, 0.5]
    step(model, batch)
    assert model.log_dict['l_mos'] == pytest.approx((3 + 0.5 * 9) / 1.5)


def test_a_column_without_any_score_in_the_batch_does_not_count(two_scores):
    model, batch = two_scores
    batch['target_mask'][:, 1] = False
    step(model, batch)
    assert model.log_dict['l_mos'] == pytest.approx(3 / 2)


def test_more_scores_than_the_network_gives_are_an_error(options, two_scores):
    with pytest.raises(ValueError, match='set network.targets: 2'):
        step(build(options), two_scores[1])


# The fitted start


def start_scores(net, images):
    return KernelHead.forward(net.head, net.forward_features(images))


def test_the_training_starts_as_the_ridge_regression_and_saves_it(options, tmp_path):
    model = build(options, ridge_alpha=10.0)
    model.start()
    images = torch.cat([batch['img'] for batch in batches(options)])
    expected = start_scores(model.net, images)
    model.net.eval()
    torch.testing.assert_close(model.net(images), expected)
    assert expected.std() > 0.1
    state = torch.load(tmp_path / 'net_start.pth', weights_only=True)['params']
    assert all(torch.equal(value, checkpoint_state(model.net)[key]) for key, value in state.items())
    assert not any(key.startswith('backbone.') for key in state)


def test_the_range_of_the_ratings_is_that_of_the_fit_and_not_of_the_weights_that_it_starts_from(options, tmp_path):
    for section in options['datasets'].values():
        section['mos_range'] = [0, 6]
    model = build(options, ridge_alpha=10.0)
    model.start()
    assert model.net.score_range == (0, 6)
    options['path']['pretrain_network'] = str(tmp_path / 'net_start.pth')
    assert build(options, ridge_alpha=10.0).net.score_range == (0, 6)
    assert build(options).net.score_range is None


def test_pyiqas_loop_gets_the_ridge_regression_at_its_first_step(options, tmp_path):
    model = build(options, ridge_alpha=10.0)
    assert not (tmp_path / 'net_start.pth').exists()
    step(model, batches(options)[0])
    assert (tmp_path / 'net_start.pth').exists()
    assert model.net.head.coefficients.any()


def test_the_loss_starts_at_the_error_of_the_head_when_each_prompt_is_left_out(options):
    model = build(options, {'head_options': {'dropout': 0.0}}, ridge_alpha=10.0, optim={'type': 'SGD', 'lr': 0.0})
    losses = []
    for iteration, batch in enumerate(batches(options), 1):
        step(model, batch, iteration)
        losses += [model.log_dict['l_mos']] * len(batch['img'])
    dataset, columns = build_dataset(options['datasets']['train']), slice(model.net.msfa.pooled_width)
    fit = fit_head(model.net, dataset, alpha=10.0, device=model.device, columns=columns)
    assert math.sqrt(sum(losses) / len(losses)) == pytest.approx(fit.rmse_left_out, rel=1e-4)
    assert fit.rmse_left_out > 1.05 * fit.rmse


# The cache


def test_with_the_cache_the_head_and_the_steps_are_the_same(options, tmp_path):
    models = []
    for cache in (None, str(tmp_path / 'cache'), str(tmp_path / 'cache')):
        models.append(build(options, ridge_alpha=10.0, frozen_cache=cache))
        models[-1].start()
        step(models[-1], batches(options)[0])
    for model in models[1:]:
        assert all(torch.equal(p, trained(models[0])[name]) for name, p in trained(model).items())
        assert torch.equal(model.net.head.coefficients, models[0].net.head.coefficients)


def test_a_cache_of_a_trained_backbone_is_an_error(options, tmp_path):
    with pytest.raises(ValueError, match='freeze_backbone: true'):
        build(options, {'freeze_backbone': False}, frozen_cache=str(tmp_path))


# Validation


def test_images_that_the_start_learned_from_cannot_validate(options, monkeypatch):
    path = build_dataset(options['datasets']['val']).paths[0]
    monkeypatch.setattr(training_images, 'starts_from_them', lambda options: True)
    monkeypatch.setattr(training_images, '_known', lambda: {file_digest(path)[:16]})
    with pytest.raises(ValueError, match='learned from 1 of the images of tiny_val'):
        build(options)


def test_validation_scores_the_averaged_weights_and_keeps_them_as_best(options, tmp_path):
    model = build(options, ridge_alpha=10.0, ema_decay=0.9)
    for iteration, batch in enumerate(batches(options)[:5], 1):
        step(model, batch, iteration)
    current, average = trained(model), model.average.tensors()
    dataset = build_dataset(options['datasets']['val'])
    loader = build_dataloader(dataset, options['datasets']['val'])
    model.validation(loader, 21, None)
    best = torch.load(tmp_path / 'net_best.pth', weights_only=True)['params']
    for name, value in current.items():
        assert torch.equal(model.trained[name], value)
        assert torch.equal(best[name], average[name])
        assert not torch.equal(best[name], value)
    network = {key: value for key, value in options['network'].items() if key != 'type'}
    torch.manual_seed(0)  # the same random backbone
    net = create_align_iqa(**network, pretrained_model_path=str(tmp_path / 'net_best.pth')).eval()
    scores = torch.cat([net(batch['img']) for batch in loader]).detach().flatten().numpy()
    mos = [row[1] for row in dataset.paths_mos]
    assert model.best_metric_results['tiny_val']['srcc']['val'] == pytest.approx(stats.spearmanr(scores, mos)[0])


def test_a_validation_is_logged_and_the_best_network_saved(options, tmp_path):
    model, logged = build(options), {}
    tb_logger = type('Log', (), {'add_scalar': lambda self, name, value, iteration: logged.update({name: value})})()
    val_set = type('Set', (), {'opt': {'name': 'tiny_val', 'further_score_columns': ['mos_align']}})()
    mos, there = torch.arange(5.0)[:, None], torch.ones(5, 2)
    for iteration, sign in ((1, -1), (2, 1), (3, -1)):
        best = tmp_path / 'net_best.pth'
        best.unlink(missing_ok=True)
        model.record(val_set, iteration, torch.cat([sign * mos, -sign * mos, mos, mos, there], 1), tb_logger)
        assert best.exists() == (iteration < 3)
        assert logged['val_metrics/tiny_val/srcc'] == pytest.approx(sign)
        assert logged['val_metrics/tiny_val/mos_align srcc'] == pytest.approx(-sign)
    assert model.best_metric_results['tiny_val']['srcc'] == {'val': pytest.approx(1), 'iter': 2, 'better': 'higher'}


def test_a_score_in_validation_that_is_not_finite_names_the_images(options):
    model = build(options)
    step(model, batches(options)[0])
    with torch.no_grad():
        model.trained['head.mlp.4.bias'].fill_(math.nan)
    loader = build_dataloader(build_dataset(options['datasets']['val']), options['datasets']['val'])
    with pytest.raises(FloatingPointError, match=r'validation set tiny_val .* at iteration 3; .*\.png'):
        model.validation(loader, 3, None)
    assert model.net.training
