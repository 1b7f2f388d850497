import numpy as np
import pytest
import torch

from align_iqa_plugin.head import HEADS, LinearHead, LinearProbe, MLPHead

FOLDS = [row % 4 for row in range(40)]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(40, 60, generator=generator) * 3 + 1
    return vectors, vectors[:, :1] - vectors[:, 5:6] + torch.randn(40, 1, generator=generator)


def ridge(x, y, alpha):
    """The primal form, in numpy."""
    weights = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    return lambda z: z @ weights + y.mean()


def standardised(vectors):
    x = vectors.double().numpy()
    return (x - x.mean(0)) / x.std(0, ddof=1)


def test_fit_is_the_ridge_regression_on_standardised_features(data):
    vectors, scores = data
    head = LinearHead(width=60)
    head.probe.fit(vectors, scores, alpha=10.0, folds=FOLDS)
    x = standardised(vectors)
    np.testing.assert_allclose(head(vectors), ridge(x, scores.double().numpy(), 10.0)(x), atol=1e-4)


def test_fit_returns_what_a_fit_without_the_rows_of_a_fold_predicts_for_them(data):
    vectors, scores = data
    left_out = LinearProbe(width=60).fit(vectors, scores, alpha=10.0, folds=FOLDS)
    x, y, fold = standardised(vectors), scores.double().numpy(), np.array(FOLDS)
    for number in range(4):
        seen = fold != number
        predicted = ridge(x[seen], y[seen], 10.0 * seen.mean())(x[~seen])
        np.testing.assert_allclose(left_out[~seen], predicted, atol=1e-4)


def test_columns_left_out_of_the_fit_do_not_count(data):
    vectors, scores = data
    head = LinearHead(width=60)
    head.probe.fit(vectors, scores, alpha=10.0, folds=FOLDS, columns=slice(20))
    changed = vectors.clone()
    changed[:, 20:] = 0
    torch.testing.assert_close(head(vectors), head(changed))


def test_a_feature_that_never_varies_does_not_break_the_fit(data):
    vectors, scores = data
    vectors[:, 3] = 7
    head = LinearHead(width=60)
    head.probe.fit(vectors, scores, alpha=10.0, folds=FOLDS)
    assert head(vectors).isfinite().all()


def test_the_perceptron_starts_as_the_probe_and_leaves_it_when_trained(data):
    vectors, scores = data
    head = MLPHead(width=60, hidden=8).eval()
    head.probe.fit(vectors, scores, alpha=10.0, folds=FOLDS)
    probe = head.probe(head.probe.standardise(vectors))
    assert torch.equal(head(vectors), probe)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):  # the layer before the zero one has a gradient from the second step on
        optimizer.zero_grad()
        (head(vectors) - scores).square().mean().backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())
    assert not torch.allclose(head(vectors), probe)


@pytest.mark.parametrize('name', HEADS)
def test_every_head_gives_one_score_each(name):
    assert HEADS[name](width=60).eval()(torch.randn(5, 60)).shape == (5, 1)
