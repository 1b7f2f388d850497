import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.data.ratings import Ratings
from align_iqa_plugin.evaluation.rating_report import correlations_of, cross_validated, draw_report, learning_curve, reliability
from align_iqa_plugin.models.rating_fit import RatingProblem


def problem(values, count, second=None, first=None, seed=0):
    """Images whose prior is their first feature; values are made from the features."""
    torch.manual_seed(seed)
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, stages=2, head='linear').eval()
    net.head.weight[0] = 1.0
    features = torch.randn(count, net.msfa.width)
    first = list(range(count)) if first is None else first
    given = values(features)
    paths = [f'{number}' for number in range(count)]
    return RatingProblem(net, features, Ratings('t.csv', paths, [''] * count, first, second, given, None))


def test_a_perfect_prior_agrees_before_and_after():
    found = problem(lambda x: (2 * x[:, 0] + 5).tolist(), 40)
    result = correlations_of(found, cross_validated(found))
    for name in ('SRCC', 'PLCC'):
        before, after, difference = result[name]
        assert before.value == pytest.approx(1) and after.value > 0.99
        assert difference.low <= difference.value <= difference.high


def test_what_is_measured_before_is_scipys():
    found = problem(lambda x: (x[:, 0] + 2 * x[:, 1]).tolist(), 40)
    before = correlations_of(found, cross_validated(found))['SRCC'].before
    assert before.value == pytest.approx(spearmanr(found.prior, found.values)[0])
    assert before.low < before.value < before.high


def test_no_rating_predicts_itself():
    noise = torch.randn(60, generator=torch.Generator().manual_seed(5)).tolist()
    found = problem(lambda x: noise, 60)
    after = correlations_of(found, cross_validated(found))['SRCC'].after
    assert after.value < 0.4  # 60 features could fit 60 numbers at random exactly


def test_the_curve_begins_with_the_prior_and_rises_with_ratings():
    found = problem(lambda x: (x[:, 0] + 3 * x[:, 1]).tolist(), 200)
    curve = learning_curve(found, draws=4)
    assert list(curve)[0] == 0 and max(curve) >= 100
    assert np.mean(curve[max(curve)]) > np.mean(curve[0]) + 0.05


@pytest.mark.parametrize('count', [6, 7, 24])
def test_ratings_of_which_some_draws_have_no_order_are_drawn_all_the_same(count, tmp_path):
    found = problem(lambda x: [1.0 if number % 6 else 2.0 for number in range(count)], count)
    curve = learning_curve(found, draws=4)
    assert all(np.isfinite(values).all() for values in curve.values())
    draw_report(tmp_path / 'fit.png', found, cross_validated(found), curve)
    assert (tmp_path / 'fit.png').stat().st_size > 1000


def test_a_draw_without_an_order_takes_no_other_draw_with_it():
    found = problem(lambda x: [float(number % 8 == 0) for number in range(24)], 24)
    lengths = {len(values) for values in learning_curve(found, draws=10).values()}
    assert len(lengths) == 1 and 0 < lengths.pop() < 10


def test_pairs_are_counted_that_are_in_order():
    first, second = list(range(0, 60, 2)), list(range(1, 60, 2))
    found = problem(lambda x: (x[first, 0] - x[second, 0]).sign().tolist(), 60, second, first)
    result = correlations_of(found, cross_validated(found))
    assert result['pairs in order'].before.value == 1
    assert reliability(found) is None


def test_ratings_that_contradict_each_other_are_unreliable():
    first = [number % 20 for number in range(60)]
    noise = torch.randn(60, generator=torch.Generator().manual_seed(0))
    assert reliability(problem(lambda x: noise.tolist(), 20, first=first))[1] < 0.4
    assert reliability(problem(lambda x: (x[first, 0] + 0.01 * noise).tolist(), 20, first=first))[1] > 0.9


def test_pairs_that_are_told_both_ways_are_unreliable():
    first = [*range(0, 20, 2), *range(0, 20, 2)]
    second = [*range(1, 20, 2), *range(1, 20, 2)]
    found = problem(lambda x: [1.0] * 10 + [-1.0] * 9 + [1.0], 20, second, first)
    assert reliability(found)[1] == pytest.approx(0.1)
