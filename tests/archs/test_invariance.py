import pytest
import torch

from align_iqa_plugin.archs.head import KernelHead, LinearHead
from align_iqa_plugin.archs.invariance import Invariance
from align_iqa_plugin.archs.ridge import OrderedPairs

FOLDS = [row % 4 for row in range(40)]
HARMLESS = 7  # the entry that a harmless change moves


@pytest.fixture
def data():
    """40 vectors of 12 entries, scores, ordered copies of the last 20, and how much harmless ones of the others differ."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 12, generator=generator)
    scores = vectors[:, :1] + 0.5 * vectors[:, HARMLESS : HARMLESS + 1]
    copies = vectors.clone()
    copies[:20, HARMLESS] += 3 * torch.randn(20, generator=generator)
    copies[20:] -= 1
    pairs = OrderedPairs(list(range(20, 40)), copies[20:], torch.ones(20, 1), 0.1)
    return vectors, scores, pairs, (vectors - copies)[:20]


def fitted(kind, data, **options):
    vectors, scores, pairs, harmless = data
    head = kind(width=12)
    head.fit(vectors, scores, alpha=0.1, folds=FOLDS, pairs=pairs, harmless=harmless, **options)
    return head


def moved(head, vectors):
    """By how much entry 7 moves the scores."""
    changed = vectors.clone()
    changed[:, HARMLESS] += 1
    return (head(changed) - head(vectors)).abs().mean()


@pytest.mark.parametrize('kind', [LinearHead, KernelHead])
def test_scores_no_longer_move_with_what_harmless_changes_move(kind, data):
    vectors = data[0]
    head, before = fitted(kind, data, invariance=1e6), fitted(kind, data)
    assert moved(head, vectors) < 0.01 * moved(before, vectors)
    assert (head(vectors) - before(vectors)).std() > 0  # at the cost of what that entry told


@pytest.mark.parametrize('kind', [LinearHead, KernelHead])
def test_an_invariance_of_zero_changes_nothing(kind, data):
    head, before = fitted(kind, data, invariance=0.0), fitted(kind, data)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in head.state_dict().items())


def test_it_is_the_inverse_root_of_one_plus_the_covariance_of_the_differences(data):
    vectors, _, _, harmless = data
    seen = Invariance.of(harmless, 2.0)
    values, axes = torch.linalg.eigh(torch.eye(12) + 2.0 * harmless.T @ harmless / 20)
    torch.testing.assert_close(seen(vectors), vectors @ (axes * values.rsqrt()) @ axes.T)


def test_a_linear_head_is_the_ridge_regression_on_what_is_seen(data):
    vectors, scores, pairs, harmless = data
    pairs = pairs._replace(margins=torch.full((20, 1), 10.0))  # none is met
    head = fitted(LinearHead, (vectors, scores, pairs, harmless), invariance=2.0)
    assert (head(vectors[20:]) - head(pairs.copies) < pairs.margins).all()
    x = head.standardise(torch.cat([vectors, pairs.copies]))
    x = Invariance.of(harmless / head.std, 2.0)(x).double()
    # the primal form: a row for each score, and one for the difference of each pair
    rows = torch.cat([x[:40], 0.1**0.5 * (x[20:40] - x[40:])])
    wanted = torch.cat([scores - scores.mean(), 0.1**0.5 * pairs.margins]).double()
    weights = torch.linalg.solve(rows.T @ rows + 0.1 * torch.eye(12), rows.T @ wanted)
    torch.testing.assert_close(head(vectors).double(), x[:40] @ weights + scores.mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize('differences', [torch.zeros(0, 12), torch.zeros(5, 12)])
def test_copies_that_differ_in_nothing_change_nothing(data, differences):
    assert torch.equal(Invariance.of(differences, 5.0)(data[0]), data[0])


def test_a_column_that_takes_no_part_stays_out(data):
    head = fitted(LinearHead, data, invariance=2.0, columns=slice(0, 6))
    assert not head.weight[6:].any() and head.weight[:6].all()
