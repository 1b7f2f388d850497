import pytest
import torch

from align_iqa_plugin.archs.head import KernelHead, LinearHead
from align_iqa_plugin.archs.ridge import OrderedPairs
from align_iqa_plugin.archs.view_heads import ViewHeads
from align_iqa_plugin.runtime.interval import Z

FOLDS = [row % 4 for row in range(40)]
FIT = {'alpha': 1.0, 'folds': FOLDS}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(40, 50, generator=generator)
    return vectors, vectors[:, :1] - vectors[:, 35:36] + torch.randn(40, 1, generator=generator)


def heads(kind=KernelHead, weights=(3, 1)):
    settings = {'components': 16} if kind is KernelHead else {}
    return ViewHeads([kind(width=width, **settings) for width in (30, 20)], weights)


def fitted_apart(data, **settings):
    """The same two heads, each fitted to its own part, and what they predict for the rows of a fold that is left out."""
    one, two = heads().heads
    parts = [data[0][:, :30], data[0][:, 30:]]
    left_out = [head.fit(part, data[1], **FIT, **settings) for head, part in zip((one, two), parts, strict=True)]
    return (one, two), parts, left_out


def test_scores_and_what_a_fit_returns_are_the_weighted_mean_of_heads_that_are_fitted_apart(data):
    both = heads()
    left_out = both.fit(*data, **FIT)
    (one, two), parts, apart = fitted_apart(data)
    torch.testing.assert_close(left_out, 0.75 * apart[0] + 0.25 * apart[1])
    torch.testing.assert_close(both(data[0]), 0.75 * one(parts[0]) + 0.25 * two(parts[1]))
    kernel = 0.75 * one.kernel(parts[0], parts[0]) + 0.25 * two.kernel(parts[1], parts[1])
    torch.testing.assert_close(both.kernel(data[0], data[0]), kernel)
    deviation = 0.75 * one.deviation(parts[0]) + 0.25 * two.deviation(parts[1])
    torch.testing.assert_close(both.deviation(data[0]), deviation)


def test_each_head_gets_its_part_of_copies_differences_weights_and_columns(data):
    vectors, scores = data
    generator = torch.Generator().manual_seed(2)
    copies, harmless = torch.randn(5, 50, generator=generator), torch.randn(6, 50, generator=generator)
    weights, columns = torch.linspace(0.5, 1.5, 50), [*range(25), *range(32, 50)]
    pairs = OrderedPairs(list(range(5)), copies, torch.ones(5, 1), 0.3)
    both = heads()
    given = {'pairs': pairs, 'harmless': harmless, 'weights': weights, 'columns': columns, 'invariance': 0.5}
    both.fit(vectors, scores, **FIT, **given)
    one, two = heads().heads
    first, second = slice(0, 30), slice(30, 50)
    for head, part, own in ((one, first, list(range(25))), (two, second, list(range(2, 20)))):
        given = {'pairs': pairs._replace(copies=copies[:, part]), 'harmless': harmless[:, part], 'weights': weights[part]}
        head.fit(vectors[:, part], scores, **FIT, **given, columns=own, invariance=0.5)
    torch.testing.assert_close(both(vectors), 0.75 * one(vectors[:, first]) + 0.25 * two(vectors[:, second]))


def test_a_correction_is_a_slope_an_offset_and_a_sum_of_kernels(data):
    both, vectors = heads(), data[0]
    both.fit(*data, **FIT)
    before, coefficients = both(vectors), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    both.correct(vectors[:3], coefficients, slope=2.0, offset=-1.0)
    expected = 2 * before - 1 + (both.kernel(vectors, vectors[:3]) @ coefficients)[:, None]
    torch.testing.assert_close(both(vectors), expected.float(), atol=1e-4, rtol=1e-4)


def test_calibrated_nine_of_ten_errors_lie_in_the_interval(data):
    both, vectors = heads(), data[0]
    both.fit(*data, **FIT)
    errors = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 5
    both.calibrate(vectors, errors)
    assert (errors.abs() <= Z * both.deviation(vectors)[:, 0]).float().mean() == pytest.approx(0.9, abs=0.026)
    once = both.deviation(vectors)
    both.calibrate(vectors, errors)
    assert torch.equal(both.deviation(vectors), once)


def test_linear_heads_state_no_deviation(data):
    both = heads(LinearHead)
    both.fit(*data, **FIT)
    both.calibrate(data[0], torch.ones(40))
    assert both.deviation(data[0]) is None
