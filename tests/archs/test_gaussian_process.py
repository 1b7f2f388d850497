import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align_iqa_plugin.archs import gaussian_process
from align_iqa_plugin.archs.gaussian_process import posterior


def drawn(seed, count=24, noise=0.3):
    """Kernel, prior and ratings of images whose rating is 3 + 2 * prior + something smooth + noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    gram = torch.exp(-0.25 * torch.cdist(x, x).square())
    prior = torch.randn(count, generator=generator, dtype=torch.float64)
    smooth = torch.linalg.cholesky(gram + 1e-9 * torch.eye(count)) @ torch.randn(
        count, generator=generator, dtype=torch.float64
    )
    ratings = 3 + 2 * prior + smooth + noise * torch.randn(count, generator=generator, dtype=torch.float64)
    return gram, prior, ratings


def fitted(gram, prior, found):
    return found.offset + found.slope * prior + gram @ found.coefficients


@given(seed=st.integers(0, 99), noise=st.sampled_from(gaussian_process.NOISE))
@settings(max_examples=10, deadline=None)
def test_what_is_left_out_is_predicted_as_by_a_fit_without_it(seed, noise):
    gram, prior, ratings = drawn(seed)
    groups = torch.arange(24) // 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaussian_process, 'NOISE', (noise,))
        whole = posterior(gram, prior, torch.eye(24).double(), ratings, groups)
        for group in (0, 5):
            seen = groups != group
            part = posterior(gram[seen][:, seen], prior[seen], torch.eye(21).double(), ratings[seen], groups[seen])
            if min(whole.slope, part.slope) > 0:  # else one of them has no prior
                again = part.offset + part.slope * prior[~seen] + gram[~seen][:, seen] @ part.coefficients
                torch.testing.assert_close(whole.left_out[~seen], again)


def test_with_much_noise_it_is_the_least_squares_line(monkeypatch):
    monkeypatch.setattr(gaussian_process, 'NOISE', (1e9,))
    gram, prior, ratings = drawn(0)
    found = posterior(gram, prior, torch.eye(24).double(), ratings, torch.arange(24))
    slope, offset = np.polyfit(prior, ratings, 1)
    assert (found.slope, found.offset) == (pytest.approx(slope, rel=1e-5), pytest.approx(offset, rel=1e-5))


def test_a_prior_that_contradicts_the_ratings_says_nothing():
    gram, prior, _ = drawn(1)
    found = posterior(gram, prior, torch.eye(24).double(), -prior, torch.arange(24))
    assert found.slope == 0


def test_the_unit_of_the_ratings_does_not_matter():
    gram, prior, ratings = drawn(2)
    one, other = (
        fitted(gram, prior, posterior(gram, prior, torch.eye(24).double(), each, torch.arange(24)))
        for each in (ratings, 20 * ratings - 7)
    )
    torch.testing.assert_close(20 * one - 7, other)


def test_a_good_prior_is_kept_and_a_bad_one_is_corrected():
    errors = []
    for seed in range(8):
        gram, prior, ratings = drawn(seed, count=80)
        only_prior = 3 + 2 * prior + 0.5 * torch.randn(80, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        seen = torch.arange(80) < 40
        for each in (only_prior, ratings):
            found = posterior(gram[seen][:, seen], prior[seen], torch.eye(40).double(), each[seen], torch.arange(40))
            predicted = found.offset + found.slope * prior[~seen] + gram[~seen][:, seen] @ found.coefficients
            line = np.polyval(np.polyfit(prior[seen], each[seen], 1), prior[~seen])
            errors.append([(predicted - each[~seen]).square().mean(), np.square(line - each[~seen].numpy()).mean()])
    errors = np.array(errors)
    assert errors[::2, 0].mean() < 1.1 * errors[::2, 1].mean()
    assert errors[1::2, 0].mean() < 0.9 * errors[1::2, 1].mean()


def test_differences_need_no_constant_and_order_the_images():
    gram, prior, ratings = drawn(3)
    first, second = torch.arange(24), (torch.arange(24) + 1) % 24
    design = torch.zeros(24, 24).double()
    design[torch.arange(24), first] += 1
    design[torch.arange(24), second] -= 1
    signs = (ratings[first] - ratings[second]).sign()
    found = posterior(gram, prior, design, signs, torch.arange(24) // 4)
    assert found.offset == 0
    scores = fitted(gram, prior, found)
    assert ((scores[first] - scores[second]).sign() == signs).double().mean() > 0.9


def test_a_rater_who_rates_all_higher_moves_no_image():
    gram, prior, ratings = drawn(4, noise=0.1)
    seen = torch.eye(24).double()
    groups, raters = torch.arange(24), torch.arange(24) % 2
    strict = posterior(gram, prior, seen, ratings, groups)
    shifted = ratings + 5.0 * raters
    known = fitted(gram, prior, posterior(gram, prior, seen, shifted, groups, raters))
    unknown = fitted(gram, prior, posterior(gram, prior, seen, shifted, groups))

    def error(scores):
        return ((scores - scores.mean()) - (ratings - ratings.mean())).square().mean()

    assert error(known) < 0.5 * error(unknown)
    assert error(known) < 4 * error(fitted(gram, prior, strict)) + 0.1


def test_ratings_of_one_prompt_alone_are_an_error():
    gram, prior, ratings = drawn(5)
    with pytest.raises(ValueError, match='one prompt'):
        posterior(gram, prior, torch.eye(24).double(), ratings, torch.zeros(24, dtype=torch.int64))


def test_ratings_that_the_prior_predicts_exactly_are_fitted():
    gram, prior, _ = drawn(6)
    found = posterior(gram, prior, torch.eye(24).double(), 1 + 3 * prior, torch.arange(24))
    torch.testing.assert_close(fitted(gram, prior, found), 1 + 3 * prior)
