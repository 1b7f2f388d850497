"""`AlignIQAScore`: what torchmetrics asks of a metric, with the packaged network where scores matter."""

import pickle

import pytest
import torch

torchmetrics = pytest.importorskip('torchmetrics', reason='AlignIQAScore needs the extra torchmetrics')

from torchmetrics.utilities.checks import check_forward_full_state_property  # noqa: E402

from align_iqa_plugin import torchmetrics as plugin  # noqa: E402
from align_iqa_plugin.archs.align_iqa_arch import AlignIQA  # noqa: E402

IMAGES = torch.rand(6, 3, 40, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network of random weights in place of the packaged one; every metric gets the same."""
    torch.manual_seed(0)
    network = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, stages=2, head='linear')
    torch.nn.init.normal_(network.head.weight)
    network.is_trained = True
    network.score_range = (1.0, 9.0)
    monkeypatch.setattr(plugin, 'create_align_iqa', lambda **keywords: network)
    return network.eval()


def expected(small):
    with torch.no_grad():
        return small(IMAGES)[:, 0]


@pytest.mark.parametrize('sizes', [[6], [1, 5], [2, 2, 2]])
def test_batches_do_not_matter(small, sizes):
    for reduction, wanted in (('mean', expected(small).mean()), ('sum', expected(small).sum()), ('none', expected(small))):
        metric = plugin.AlignIQAScore(reduction=reduction)
        for batch in IMAGES.split(sizes):
            metric.update(batch)
        torch.testing.assert_close(metric.compute(), wanted)


def test_forward_gives_the_value_of_the_batch_and_keeps_counting(small):
    metric = plugin.AlignIQAScore()
    torch.testing.assert_close(metric(IMAGES[:2]), expected(small)[:2].mean())
    torch.testing.assert_close(metric(IMAGES[2:]), expected(small)[2:].mean())
    torch.testing.assert_close(metric.compute(), expected(small).mean())
    metric.reset()
    torch.testing.assert_close(metric(IMAGES[:1]), expected(small)[0])


@pytest.mark.filterwarnings('ignore:std')  # of one repetition
def test_a_full_state_is_not_needed():
    check_forward_full_state_property(
        plugin.AlignIQAScore, input_args={'images': IMAGES[:2]}, num_update_to_compare=[2], reps=1
    )


def test_what_two_processes_scored_is_put_together(small):
    for reduction, wanted in (('mean', expected(small).mean()), ('none', expected(small))):
        one, other = plugin.AlignIQAScore(reduction=reduction), plugin.AlignIQAScore(reduction=reduction)
        one.update(IMAGES[:4])
        other.update(IMAGES[4:])
        one.merge_state(other)
        torch.testing.assert_close(one.compute().sort().values, wanted.sort().values)


def test_it_stands_in_a_collection_and_is_copied(small):
    metrics = torchmetrics.MetricCollection({'mean': plugin.AlignIQAScore(), 'sum': plugin.AlignIQAScore(reduction='sum')})
    metrics.update(IMAGES)
    values = metrics.clone().compute()
    torch.testing.assert_close(values['sum'] / 6, values['mean'])


def test_a_pickled_metric_goes_on(small):
    metric = plugin.AlignIQAScore()
    metric.update(IMAGES[:3])
    again = pickle.loads(pickle.dumps(metric))
    again.update(IMAGES[3:])
    torch.testing.assert_close(again.compute(), expected(small).mean())


def test_a_gradient_reaches_the_images():
    images = IMAGES.clone().requires_grad_()
    plugin.AlignIQAScore()(images).backward()
    assert images.grad.abs().sum() > 0


def test_the_network_stays_frozen_and_in_evaluation_mode():
    metric = plugin.AlignIQAScore().train()
    assert not metric.network.training and not any(p.requires_grad for p in metric.parameters())


def test_an_unknown_reduction_is_named():
    with pytest.raises(ValueError, match="'median': choose from mean, sum, none"):
        plugin.AlignIQAScore(reduction='median')


def test_a_plot_spans_the_scale_of_the_ratings(small):
    pytest.importorskip('matplotlib')
    metric = plugin.AlignIQAScore()
    metric.update(IMAGES)
    low, high = metric.plot()[1].get_ylim()
    assert 0 < low <= 1 and 9 <= high < 10  # torchmetrics leaves a margin
    small.score_range = None
    metric.plot()


def test_the_packaged_network_is_a_metric(monkeypatch):
    monkeypatch.undo()
    metric = plugin.AlignIQAScore()
    assert (metric.plot_lower_bound, metric.plot_upper_bound) == metric.network.score_range
