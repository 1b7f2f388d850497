import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from align_iqa_plugin.archs.head import HEADS, SINCE_0_5, KernelHead, LinearHead, MLPHead

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
    head.fit(vectors, scores, alpha=10.0, folds=FOLDS)
    x = standardised(vectors)
    np.testing.assert_allclose(head(vectors), ridge(x, scores.double().numpy(), 10.0)(x), atol=1e-4)


def test_fit_returns_what_a_fit_without_the_rows_of_a_fold_predicts_for_them(data):
    vectors, scores = data
    left_out = LinearHead(width=60).fit(vectors, scores, alpha=10.0, folds=FOLDS)
    x, y, fold = standardised(vectors), scores.double().numpy(), np.array(FOLDS)
    for number in range(4):
        seen = fold != number
        predicted = ridge(x[seen], y[seen], 10.0 * seen.mean())(x[~seen])
        np.testing.assert_allclose(left_out[~seen], predicted, atol=1e-4)


def test_columns_left_out_of_the_fit_do_not_count(data):
    vectors, scores = data
    head = LinearHead(width=60)
    head.fit(vectors, scores, alpha=10.0, folds=FOLDS, columns=slice(20))
    changed = vectors.clone()
    changed[:, 20:] = 0
    torch.testing.assert_close(head(vectors), head(changed))


def test_weights_say_how_much_a_feature_counts(data):
    vectors, scores = data
    weights = torch.linspace(0.2, 2, 60)
    head = LinearHead(width=60)
    head.fit(vectors, scores, alpha=10.0, folds=FOLDS, weights=weights)
    x = standardised(vectors) * weights.numpy()
    x *= (60 / (weights.numpy() ** 2).sum()) ** 0.5
    np.testing.assert_allclose(head(vectors), ridge(x, scores.double().numpy(), 10.0)(x), atol=1e-4)


def test_a_feature_of_weight_zero_changes_neither_score_nor_deviation(data):
    vectors, scores = data
    head = KernelHead(width=60, components=16)
    weights = torch.ones(60)
    weights[20:] = 0
    head.fit(vectors, scores, alpha=1.0, folds=FOLDS, weights=weights)
    changed = vectors.clone()
    changed[:, 20:] = 0
    torch.testing.assert_close(head(vectors), head(changed))
    torch.testing.assert_close(head.deviation(vectors), head.deviation(changed))


def test_equal_weights_are_none_bit_for_bit(data):
    vectors, scores = data
    plain, weighted = KernelHead(width=60, components=16), KernelHead(width=60, components=16)
    plain.fit(vectors, scores, alpha=1.0, folds=FOLDS)
    weighted.fit(vectors, scores, alpha=1.0, folds=FOLDS, weights=torch.ones(60))
    assert torch.equal(plain(vectors), weighted(vectors))


def test_a_feature_that_never_varies_does_not_break_the_fit(data):
    vectors, scores = data
    vectors[:, 3] = 7
    head = LinearHead(width=60)
    head.fit(vectors, scores, alpha=10.0, folds=FOLDS)
    assert head(vectors).isfinite().all()


def test_the_perceptron_starts_as_the_probe_and_leaves_it_when_trained(data):
    vectors, scores = data
    head = MLPHead(width=60, hidden=8).eval()
    head.fit(vectors, scores, alpha=10.0, folds=FOLDS)
    probe = KernelHead.forward(head, vectors)
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


@pytest.mark.parametrize('name', HEADS)
def test_every_head_gives_as_many_scores_as_targets(name):
    assert HEADS[name](width=60, targets=3).eval()(torch.randn(5, 60)).shape == (5, 3)


def test_several_targets_are_fitted_as_each_one_alone(data):
    vectors, first = data
    scores = torch.cat([first, first.flip(0), vectors[:, 7:8].square()], 1)
    together = LinearHead(width=60, targets=3)
    left_out = together.fit(vectors, scores, alpha=10.0, folds=FOLDS, columns=slice(40))
    for target in range(3):
        alone = LinearHead(width=60)
        alone_left_out = alone.fit(vectors, scores[:, target : target + 1], alpha=10.0, folds=FOLDS, columns=slice(40))
        torch.testing.assert_close(left_out[:, target], alone_left_out[:, 0])
        torch.testing.assert_close(together.weight[:, target], alone.weight[:, 0])
        torch.testing.assert_close(together.bias[target], alone.bias[0])


@given(
    missing=arrays(bool, (40, 2)).filter(lambda m: all(len(set(np.array(FOLDS)[~column])) > 1 for column in m.T)),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_rows_whose_score_is_missing_take_no_part_in_the_fit_of_that_target(missing, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors, scores = torch.randn(40, 60, generator=generator), torch.randn(40, 2, generator=generator)
    mask = torch.from_numpy(~missing)
    probe = LinearHead(width=60, targets=2)
    left_out = probe.fit(vectors, scores.where(mask, torch.tensor(1e3)), alpha=10.0, folds=FOLDS, mask=mask)
    predicted = probe(vectors)
    x, y, fold = standardised(vectors), scores.double().numpy(), np.array(FOLDS)
    for target in range(2):
        present = ~missing[:, target]
        fitted = ridge(x[present], y[present, target], 10.0 * present.mean())
        np.testing.assert_allclose(predicted[:, target], fitted(x), atol=1e-3)
        for number in range(4):
            seen = present & (fold != number)
            expected = ridge(x[seen], y[seen, target], 10.0 * seen.mean())(x[fold == number])
            np.testing.assert_allclose(left_out[fold == number, target], expected, atol=1e-3)


@pytest.mark.parametrize('present', [[], [0, 4, 8]])
def test_a_target_whose_scores_cannot_be_left_out_is_refused(data, present):
    vectors, scores = data
    mask = torch.ones(40, 2, dtype=torch.bool)
    mask[:, 1] = False
    mask[present, 1] = True
    with pytest.raises(ValueError, match=f'target 2 has {len(present)} scores'):
        LinearHead(width=60, targets=2).fit(vectors, scores.repeat(1, 2), alpha=10.0, folds=FOLDS, mask=mask)


def kernel_ridge(x, y, seen, alpha, gamma, components, linear):
    """Principal components by a singular value decomposition, the sum of the kernels, then the textbook's formula."""
    rows, sizes, _ = np.linalg.svd(x, full_matrices=False)
    z = (rows * sizes)[:, :components]
    squares = np.square(z[:, None] - z[None]).sum(-1)
    kernel = np.exp(-gamma * squares / (squares.mean() / 2)) + linear * x @ x.T / np.square(x).sum(1).mean()
    regularised = kernel[seen][:, seen] + alpha * seen.mean() * np.eye(seen.sum())
    return kernel[:, seen] @ np.linalg.solve(regularised, y[seen] - y[seen].mean()) + y[seen].mean()


@pytest.mark.parametrize('linear', [0.0, 0.3])
def test_the_kernel_head_is_kernel_ridge_regression(linear, data):
    vectors, scores = data
    head = KernelHead(width=60, components=12, gamma=0.4, linear=linear)
    left_out = head.fit(vectors, scores, alpha=0.2, folds=FOLDS)
    x, y, fold = standardised(vectors), scores.double().numpy(), np.array(FOLDS)
    np.testing.assert_allclose(head(vectors), kernel_ridge(x, y, fold >= 0, 0.2, 0.4, 12, linear), atol=1e-3)
    for number in range(4):
        predicted = kernel_ridge(x, y, fold != number, 0.2, 0.4, 12, linear)
        np.testing.assert_allclose(left_out[fold == number], predicted[fold == number], atol=1e-3)


def test_a_kernel_head_comes_back_from_its_state_with_as_many_support_vectors(data):
    head, other = KernelHead(width=60), KernelHead(width=60)
    head.fit(*data, alpha=0.1, folds=FOLDS)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(data[0]), head(data[0]))


def test_the_score_of_the_kernel_head_can_be_followed_to_the_features(data):
    head = KernelHead(width=60)
    head.fit(*data, alpha=0.1, folds=FOLDS)
    vectors = data[0][:4].clone().requires_grad_()
    step = torch.autograd.grad(head(vectors).sum(), vectors)[0]
    rise = head(vectors + 1e-2 * step) - head(vectors - 1e-2 * step)
    torch.testing.assert_close(rise[:, 0], 2e-2 * step.square().sum(1), atol=1e-4, rtol=5e-2)


@pytest.fixture
def fitted(data):
    vectors, scores = data
    head = KernelHead(width=60, components=12)
    return head, vectors, scores, head.fit(vectors, scores, alpha=0.2, folds=FOLDS)


def test_the_deviation_grows_away_from_the_images_of_the_fit(fitted):
    head, vectors, _, _ = fitted
    far = vectors.mean(0) + torch.tensor([[1.0], [3.0], [10.0]]) * (vectors[:1] - vectors.mean(0))
    std = head.deviation(far)[:, 0]
    assert std[0] < std[1] < std[2]


def test_ninety_percent_of_the_scores_are_within_the_interval_of_what_was_predicted_without_them(fitted):
    head, vectors, scores, left_out = fitted
    # in the fit, each row is left out; its deviation here, where it is not, is smaller
    share = ((left_out - scores).abs() <= 1.6449 * head.deviation(vectors)).float().mean()
    assert 0.75 <= share <= 0.9


def test_each_target_has_its_own_deviation(data):
    vectors, scores = data
    head = KernelHead(width=60, targets=2, components=12)
    mask = torch.ones(40, 2, dtype=torch.bool)
    mask[:10, 1] = False
    head.fit(vectors, torch.cat([scores, 10 * scores], 1), alpha=0.2, folds=FOLDS, mask=mask)
    std = head.deviation(vectors)
    assert std.shape == (40, 2) and (std[:, 1] > 3 * std[:, 0]).all()


def test_the_deviation_changes_no_score_and_comes_back_from_the_state(fitted):
    head, vectors, _, _ = fitted
    other = KernelHead(width=60, components=12)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(vectors), head(vectors)) and torch.equal(other.deviation(vectors), head.deviation(vectors))
    assert all(value.is_contiguous() for value in head.state_dict().values())  # as safetensors needs it


def test_a_state_of_before_0_5_0_loads_and_knows_no_deviation_even_into_a_head_that_knew_one(fitted):
    head, vectors, _, _ = fitted
    old = {name: value for name, value in head.state_dict().items() if name not in SINCE_0_5}
    before = head(vectors)
    head.load_state_dict(old)
    assert torch.equal(head(vectors), before) and head.deviation(vectors) is None


@pytest.mark.parametrize('name', HEADS)
def test_a_head_that_does_not_know_its_deviation_says_none(name):
    assert HEADS[name](width=60).deviation(torch.randn(5, 60)) is None


def test_calibration_scales_the_deviation_to_new_errors(fitted):
    head, vectors, _, _ = fitted
    before = head.deviation(vectors)
    head.calibrate(vectors, 2 * 1.6449 * before[:, 0].double())
    torch.testing.assert_close(once := head.deviation(vectors), 2 * before)
    head.calibrate(vectors, 2 * 1.6449 * before[:, 0].double())
    assert torch.equal(head.deviation(vectors), once)


def test_the_deviation_can_be_followed_to_the_features(fitted):
    head, vectors, _, _ = fitted
    vectors = (2 * vectors[:4]).requires_grad_()
    step = torch.autograd.grad(head.deviation(vectors).sum(), vectors)[0]
    rise = head.deviation(vectors + 1e-2 * step) - head.deviation(vectors - 1e-2 * step)
    torch.testing.assert_close(rise[:, 0], 2e-2 * step.square().sum(1), atol=1e-4, rtol=5e-2)


def test_the_gradient_of_a_deviation_of_zero_is_finite(fitted):
    head, vectors, _, _ = fitted
    head.noise.zero_()
    head.explained.mul_(2)  # more than there is to explain
    vectors = vectors.clone().requires_grad_()
    std = head.deviation(vectors)
    assert std.max() < 1e-15
    assert torch.equal(torch.autograd.grad(std.sum(), vectors)[0], torch.zeros_like(vectors))
