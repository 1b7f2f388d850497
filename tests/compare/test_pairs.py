"""Choices between images of one prompt, and between generators."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_iqa_plugin.compare.pairs import best_of_n_regret, pairwise_accuracy, system_srcc
from align_iqa_plugin.compare.significance import draw_prompts

QUICK = settings(deadline=None, max_examples=50)  # a loaded machine is no problem
# few values, so that ties are frequent
IMAGES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 4)), min_size=3, max_size=30)


def columns(images):
    scores, mos, prompts = map(np.array, zip(*images, strict=True))
    return scores.astype(float), mos.astype(float), prompts


@QUICK
@given(IMAGES, st.integers(0, 99))
def test_every_resample_gives_what_the_images_written_out_give(images, seed):
    scores, mos, prompts = columns(images)
    draws = draw_prompts(5, seed=seed, resamples=4)
    accuracy, _ = pairwise_accuracy(scores, mos, np.full(len(scores), 0.4), prompts, draws)
    lost = best_of_n_regret(scores, mos, prompts, draws)
    for sample, counts in enumerate(draws.T.astype(int)):
        # each copy of a prompt is a prompt of its own
        copies = [np.flatnonzero(prompts == prompt) for prompt in range(5) for _ in range(counts[prompt])]
        right, regrets = [], []
        for copy in copies:
            for i, j in itertools.combinations(copy, 2):
                if abs(mos[i] - mos[j]) > 1.96 * np.sqrt(0.4**2 + 0.4**2):
                    better, worse = (i, j) if mos[i] > mos[j] else (j, i)
                    right.append(0.5 if scores[i] == scores[j] else float(scores[better] > scores[worse]))
            if len(copy) > 1:
                picked = [mos[i] for i in copy if scores[i] == max(scores[copy])]
                regrets.append(max(mos[copy]) - np.mean(picked))
        assert accuracy[sample] == pytest.approx(np.mean(right) if right else np.nan, nan_ok=True)
        assert lost[sample] == pytest.approx(np.mean(regrets) if regrets else np.nan, nan_ok=True)


@QUICK
@given(IMAGES)
def test_choices_do_not_depend_on_the_scale_of_scores_and_turn_round_with_them(images):
    scores, mos, prompts = columns(images)
    draws, errors = draw_prompts(5, seed=0, resamples=3), np.zeros(len(scores))
    accuracy = pairwise_accuracy(scores, mos, errors, prompts, draws)[0]
    for stretched in (np.exp(3 * scores), scores**3 / 7 + 100):
        np.testing.assert_array_equal(pairwise_accuracy(stretched, mos, errors, prompts, draws)[0], accuracy)
        regrets = [best_of_n_regret(each, mos, prompts, draws) for each in (scores, stretched)]
        np.testing.assert_array_equal(*regrets)
    np.testing.assert_allclose(pairwise_accuracy(-scores, mos, errors, prompts, draws)[0], 1 - accuracy)


def test_mos_closer_than_their_noise_are_no_pair_and_of_unknown_noise_all_that_differ_are():
    scores, mos, prompts = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.1, 3.0]), np.zeros(3, int)
    draws = np.ones((1, 1))
    assert pairwise_accuracy(scores, mos, np.full(3, 0.1), prompts, draws)[1] == 2
    assert pairwise_accuracy(scores, mos, np.full(3, np.nan), prompts, draws)[1] == 3
    assert pairwise_accuracy(scores, np.ones(3), np.full(3, np.nan), prompts, draws)[1] == 0
    # the error of a difference of two: 1.96 * sqrt(2) * 0.7 = 1.94 lies between 1.9 and 2
    assert pairwise_accuracy(scores, mos, np.full(3, 0.7), prompts, draws)[1] == 1


def test_picking_at_random_costs_the_mean_and_picking_right_costs_nothing():
    mos, prompts = np.array([1.0, 2.0, 6.0, 4.0, 5.0, 7.0]), np.array([0, 0, 0, 1, 1, 2])
    draws = np.ones((3, 1))
    assert best_of_n_regret(mos, mos, prompts, draws)[0] == 0
    assert best_of_n_regret(np.zeros(6), mos, prompts, draws)[0] == pytest.approx((3 + 0.5) / 2)
    assert best_of_n_regret(-mos, mos, prompts, draws)[0] == pytest.approx((5 + 1) / 2)


def test_generators_are_ranked_by_their_means():
    generators = np.array(['a', 'a', 'b', 'b', 'c', 'c', ''])
    mos = np.array([1.0, 2, 3, 4, 5, 6, 100])
    assert system_srcc(np.array([2.0, 1, 4, 3, 6, 5, -9]), mos, generators) == (1, 3)
    assert system_srcc(np.array([0, 9, 0, 5, 0, 1.0, 0]), mos, generators) == (-1, 3)
    value, count = system_srcc(mos[:4], mos[:4], generators[:4])
    assert np.isnan(value) and count == 2
