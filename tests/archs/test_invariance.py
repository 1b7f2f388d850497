import pytest
import torch

from align_iqa_plugin.archs.head import KernelHead, LinearHead
from align_iqa_plugin.archs.invariance import Invariance
from align_iqa_plugin.archs.ridge import OrderedPairs

FOLDS = [row % 4 for row in range(40)]
HARMLESS = 7  # the entry that a harmless change moves


@pytest.fixture
def data():
    """40 vectors of 12 entries, their scores, and a copy of each: of the first half, entry 7 is another one."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 12, generator=generator)
    scores = vectors[:, :1] + 0.5 * vectors[:, HARMLESS : HARMLESS + 1]
    copies = vectors.clone()
    copies[:20, HARMLESS] += 3 * torch.randn(20, generator=generator)
    copies[20:] -= 1
    margins = torch.cat([torch.zeros(20, 1), torch.ones(20, 1)])
    return vectors, scores, OrderedPairs(list(range(40)), copies, margins, 0.1, alike=range(20))


def fitted(kind, data, **options):
    vectors, scores, pairs = data
    head = kind(width=12)
    head.fit(vectors, scores, alpha=0.1, folds=FOLDS, pairs=pairs, **options)
    return head


def moved(head, vectors):
    """By how much entry 7 moves the scores."""
    changed = vectors.clone()
    changed[:, HARMLESS] += 1
    return (head(changed) - head(vectors)).abs().mean()


@pytest.mark.parametrize('kind', [LinearHead, KernelHead])
def test_scores_no_longer_move_with_what_harmless_changes_move(kind, data):
    vectors, _, _ = data
    head, before = fitted(kind, data, invariance=1e6), fitted(kind, data)
    assert moved(head, vectors) < 0.01 * moved(before, vectors)
    assert (head(vectors) - before(vectors)).std() > 0  # at the cost of what that entry told


@pytest.mark.parametrize('kind', [LinearHead, KernelHead])
def test_an_invariance_of_zero_changes_nothing(kind, data):
    head, before = fitted(kind, data, invariance=0.0), fitted(kind, data)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in head.state_dict().items())


def test_it_is_the_inverse_root_of_one_plus_the_covariance_of_the_differences(data):
    vectors, _, pairs = data
    seen = Invariance.of(torch.cat([vectors, pairs.copies]), pairs, 2.0)
    differences = (vectors - pairs.copies)[:20].double()
    values, axes = torch.linalg.eigh(torch.eye(12) + 2.0 * differences.T @ differences / 20)
    torch.testing.assert_close(seen(vectors.double()), vectors.double() @ (axes * values.rsqrt()) @ axes.T)


def test_a_linear_head_is_the_ridge_regression_on_what_is_seen(data):
    vectors, scores, pairs = data
    head = fitted(LinearHead, data, invariance=2.0)
    x = head.standardise(torch.cat([vectors, pairs.copies]))
    x = Invariance.of(x, pairs, 2.0)(x).double()
    # the primal form: a row for each score, and one for the difference of each pair
    rows = torch.cat([x[:40], 0.1**0.5 * (x[:40] - x[40:])])
    wanted = torch.cat([scores - scores.mean(), 0.1**0.5 * pairs.margins]).double()
    weights = torch.linalg.solve(rows.T @ rows + 0.1 * torch.eye(12), rows.T @ wanted)
    torch.testing.assert_close(head(vectors).double(), x[:40] @ weights + scores.mean(), atol=1e-5, rtol=0)


def test_pairs_that_differ_in_nothing_change_nothing(data):
    vectors, _, pairs = data
    same = pairs._replace(copies=vectors)
    torch.testing.assert_close(Invariance.of(torch.cat([vectors, vectors]), same, 5.0)(vectors), vectors)


def test_without_pairs_that_are_alike_nothing_changes(data):
    vectors, _, pairs = data
    for given in (None, pairs._replace(alike=())):
        assert torch.equal(Invariance.of(torch.cat([vectors, pairs.copies]), given, 5.0)(vectors), vectors)
