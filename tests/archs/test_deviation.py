"""The deviation of a kernel regression: that of the exact posterior, as far as the inducing points allow."""

import pytest
import torch

from align_iqa_plugin.archs import deviation
from align_iqa_plugin.archs.deviation import chosen_points, explained_factor, scale_of

COUNT, NOISE = 60, 0.2
FOLDS = torch.arange(COUNT) % 5


def gram(x, y):
    return torch.exp(-torch.cdist(x, y).square() / 8)


@pytest.fixture
def points():
    return torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact(points, seen, x):
    """The textbook's variance of a Gaussian process, noise included; a fit to fewer rows has less of it, as the ridge has."""
    known, kernel = points[seen], gram(x, points[seen])
    matrix = gram(known, known) + NOISE * len(known) / COUNT * torch.eye(len(known), dtype=torch.float64)
    return NOISE + 1 - (kernel * torch.linalg.solve(matrix, kernel.T).T).sum(1)


def test_with_all_rows_as_points_it_is_the_posterior_and_left_out_that_of_the_other_folds(points):
    kernel = gram(points, points)
    factor, left_out = explained_factor(kernel, kernel, torch.ones(COUNT).double(), NOISE, FOLDS)
    new = points[:10] + 0.5
    found = NOISE + 1 - (gram(new, points) @ factor).square().sum(1)
    torch.testing.assert_close(found, exact(points, torch.arange(COUNT), new), atol=1e-3, rtol=0)
    for fold in range(5):
        unseen = FOLDS == fold
        torch.testing.assert_close(left_out[unseen], exact(points, ~unseen, points[unseen]), atol=1e-3, rtol=0)


def test_with_fewer_points_it_is_the_prior_far_away_and_less_near_the_rows(points):
    few = points[::4]
    factor, _ = explained_factor(gram(few, few), gram(points, few), torch.ones(COUNT).double(), NOISE, FOLDS)
    near, far = (1 - (gram(x, few) @ factor).square().sum(1) for x in (points, points + 100))
    assert (near < 0.8).all() and (far > 0.999).all()


def test_rows_that_are_the_same_break_nothing(points):
    same = points[:1].expand(COUNT, 3)
    factor, left_out = explained_factor(gram(same, same), gram(same, same), torch.ones(COUNT).double(), NOISE, FOLDS)
    assert factor.isfinite().all() and (left_out > NOISE).all()


def test_ninety_percent_of_the_errors_are_in_the_interval():
    generator = torch.Generator().manual_seed(0)
    variance = 0.1 + torch.rand(4000, generator=generator, dtype=torch.float64)
    errors = 3 * variance.sqrt() * torch.randn(4000, generator=generator, dtype=torch.float64)
    assert float(scale_of(errors, variance)) == pytest.approx(3, rel=0.05)


def test_points_are_spread_over_the_rows_and_the_same_every_time(monkeypatch):
    monkeypatch.setattr(deviation, 'POINTS', 4)
    assert chosen_points(10).tolist() == [0, 3, 6, 9] and chosen_points(3).tolist() == [0, 1, 2]
