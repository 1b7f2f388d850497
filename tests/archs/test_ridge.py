import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align_iqa_plugin.archs.head import KernelHead, LinearHead
from align_iqa_plugin.archs.ridge import OrderedPairs, dual_ridge

FOLDS = [row % 4 for row in range(30)]


def drawn(seed, targets=1, copies=12):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    scores = vectors[:, :targets] + 0.3 * torch.randn(30, targets, generator=generator, dtype=torch.float64)
    rows = torch.randint(30, (copies,), generator=generator).tolist()
    moved = vectors[rows] + torch.randn(copies, 50, generator=generator, dtype=torch.float64)
    margins = torch.rand(copies, targets, generator=generator, dtype=torch.float64)
    return vectors, scores, OrderedPairs(rows, moved, margins, weight=0.7)


def primal(vectors, scores, pairs, chosen, chosen_pairs, alpha):
    """The normal equations of the same sum of squares, in numpy; the constant is the mean of the scores."""
    x, y = vectors.numpy()[chosen], scores.numpy()[chosen]
    differences = vectors.numpy()[pairs.rows] - pairs.copies.numpy()
    a = np.concatenate([x, pairs.weight**0.5 * differences[chosen_pairs]])
    t = np.concatenate([y - y.mean(0), pairs.weight**0.5 * pairs.margins.numpy()[chosen_pairs]])
    weights = np.linalg.solve(a.T @ a + alpha * np.mean(chosen) * np.eye(a.shape[1]), a.T @ t)
    return lambda z: z.numpy() @ weights + y.mean(0)


@given(seed=st.integers(0, 99), alpha=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_scores_and_differences_are_fitted_by_least_squares(seed, alpha):
    vectors, scores, pairs = drawn(seed)
    points = torch.cat([vectors, pairs.copies])
    coefficients, bias, left_out = dual_ridge(points @ points.T, scores, alpha=alpha, folds=FOLDS, pairs=pairs)
    everything = np.full(30, True), np.full(12, True)
    expected = primal(vectors, scores, pairs, *everything, alpha)(vectors)
    np.testing.assert_allclose(vectors @ points.T @ coefficients + bias, expected, atol=1e-6)
    fold = np.array(FOLDS)
    for number in range(4):
        seen = fold != number
        predicted = primal(vectors, scores, pairs, seen, seen[pairs.rows], alpha)(vectors)
        np.testing.assert_allclose(left_out[~seen], predicted[~seen], atol=1e-6)


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

    torch.testing.assert_close(differences(ordered), heavy.margins, atol=0.01, rtol=0)
    assert (differences(plain) - heavy.margins).abs().mean() > 0.2
    assert float(torch.corrcoef(torch.stack([ordered(vectors)[:, 0], scores[:, 0]]))[0, 1]) > 0.95
