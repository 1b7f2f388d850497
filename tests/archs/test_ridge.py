import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from align_iqa_plugin.archs.head import KernelHead, LinearHead
from align_iqa_plugin.archs.ridge import OrderedPairs, dual_ridge

FOLDS = [row % 4 for row in range(30)]


def drawn(seed, targets=1, copies=12):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    scores = vectors[:, :targets] + 0.3 * torch.randn(30, targets, generator=generator, dtype=torch.float64)
    rows = torch.randint(30, (copies,), generator=generator).tolist()
    moved = vectors[rows] + torch.randn(copies, 50, generator=generator, dtype=torch.float64)
    margins = 2 * torch.rand(copies, targets, generator=generator, dtype=torch.float64) - 1
    margins[:3] = 0
    return vectors, scores, OrderedPairs(rows, moved, margins, weight=0.7)


def shortfall(differences, margins):
    """By how much pairs fall short of their margins; a margin of zero asks for nothing."""
    return torch.relu((margins - differences) * margins.sign())


def minimised(vectors, scores, pairs, alpha):
    """The scores of the linear function with the smallest objective, by descent; the constant is the mean of the scores."""
    differences = vectors[pairs.rows] - pairs.copies

    def objective(weights):
        weights = torch.from_numpy(weights).requires_grad_()
        errors = (vectors @ weights + scores[:, 0].mean() - scores[:, 0]).square().sum()
        value = errors + pairs.weight * shortfall(differences @ weights, pairs.margins[:, 0]).square().sum()
        value = value + alpha * weights.square().sum()
        value.backward()
        return value.item(), weights.grad.numpy()

    found = optimize.minimize(objective, np.zeros(50), jac=True, tol=1e-14, options={'maxiter': 5000})
    return vectors @ torch.from_numpy(found.x) + scores.mean()


@given(seed=st.integers(0, 99), alpha=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_squared_errors_of_scores_and_what_pairs_fall_short_by_are_smallest(seed, alpha):
    vectors, scores, pairs = drawn(seed)
    points = torch.cat([vectors, pairs.copies])
    coefficients, bias, _ = dual_ridge(points @ points.T, scores, alpha=alpha, folds=FOLDS, pairs=pairs)
    found = (vectors @ points.T @ coefficients + bias)[:, 0]
    torch.testing.assert_close(found, minimised(vectors, scores, pairs, alpha), atol=1e-5, rtol=0)


def test_what_is_left_out_is_predicted_by_the_other_rows_and_their_pairs():
    vectors, scores, pairs = drawn(1)
    pairs.margins.fill_(50)  # so that all of them count in every fit
    points = torch.cat([vectors, pairs.copies])
    _, _, left_out = dual_ridge(points @ points.T, scores, alpha=2.0, folds=FOLDS, pairs=pairs)
    fold = torch.tensor(FOLDS)
    for number in range(4):
        seen = fold != number
        kept = seen[pairs.rows]
        rows = (seen.cumsum(0) - 1)[pairs.rows][kept].tolist()
        fewer = OrderedPairs(rows, pairs.copies[kept], pairs.margins[kept], pairs.weight)
        points = torch.cat([vectors[seen], fewer.copies])
        penalty = 2.0 * float(seen.double().mean())
        others = fold[seen].tolist()
        coefficients, bias, _ = dual_ridge(points @ points.T, scores[seen], alpha=penalty, folds=others, pairs=fewer)
        torch.testing.assert_close(left_out[~seen], vectors[~seen] @ points.T @ coefficients + bias)


def test_a_pair_without_a_margin_takes_no_part_for_that_target():
    vectors, scores, pairs = drawn(0, targets=2)
    points = torch.cat([vectors, pairs.copies])
    pairs.margins[:5, 1] = torch.nan
    coefficients, _, _ = dual_ridge(points @ points.T, scores, alpha=1.0, folds=FOLDS, pairs=pairs)
    fewer = OrderedPairs(pairs.rows[5:], pairs.copies[5:], pairs.margins[5:, 1:], pairs.weight)
    points = torch.cat([vectors, fewer.copies])
    alone, _, _ = dual_ridge(points @ points.T, scores[:, 1:], alpha=1.0, folds=FOLDS, pairs=fewer)
    torch.testing.assert_close(coefficients[:30, 1:], alone[:30])
    torch.testing.assert_close(coefficients[35:, 1:], alone[30:])
    assert not coefficients[30:35, 1].any()


@pytest.mark.parametrize('head', [LinearHead, KernelHead])
def test_a_heavy_pair_is_kept_and_others_hardly_move_the_scores(head):
    vectors, scores, pairs = (part for part in drawn(3))
    vectors, scores = vectors.float(), scores.float()
    plain, ordered = head(width=50), head(width=50)
    plain.fit(vectors, scores, alpha=0.1, folds=FOLDS)
    heavy = OrderedPairs(pairs.rows, pairs.copies.float(), torch.full((12, 1), 0.5), weight=1e4)
    ordered.fit(vectors, scores, alpha=0.1, folds=FOLDS, pairs=heavy)

    def differences(fitted):
        return fitted(vectors[heavy.rows]) - fitted(heavy.copies)

    assert (differences(ordered) - heavy.margins).min() > -0.01
    assert (differences(plain) - heavy.margins).min() < -0.2
    assert (differences(ordered) - heavy.margins).max() > 0.2  # a copy may score lower than it has to
    assert float(torch.corrcoef(torch.stack([ordered(vectors)[:, 0], scores[:, 0]]))[0, 1]) > 0.95
