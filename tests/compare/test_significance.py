"""Resamples, intervals, paired tests and letters of a comparison."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiqa.metrics.correlation_coefficient import calculate_srcc
from scipy import stats

from align_iqa_plugin.compare.significance import difference_p, draw_prompts, holm, interval, letters
from align_iqa_plugin.evaluation.correlation import srcc

QUICK = settings(deadline=None, max_examples=50)  # a loaded machine is no problem


def correlated(seed=0, prompts=40, each=6, noise=0.7):
    """Scores and MOS that share an effect of the prompt, and the number of each image's prompt."""
    generator = np.random.default_rng(seed)
    of = np.repeat(np.arange(prompts), each)
    mos = generator.normal(size=prompts)[of] + 0.5 * generator.normal(size=len(of))
    return mos + noise * generator.normal(size=prompts)[of] + 0.2 * generator.normal(size=len(of)), mos, of


# intervals


def test_an_interval_is_that_of_scipys_bootstrap_over_prompts():
    scores, mos, prompts = correlated()
    ours = interval(srcc(scores, mos, prompts, draw_prompts(40, seed=1, resamples=4000)))
    images = np.arange(240).reshape(40, 6)

    def statistic(drawn):
        chosen = images[drawn].ravel()
        return stats.spearmanr(scores[chosen], mos[chosen])[0]

    theirs = stats.bootstrap(
        (np.arange(40),), statistic, vectorized=False, n_resamples=1000, method='percentile', rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours['value'] == pytest.approx(calculate_srcc(scores, mos))
    width = theirs.high - theirs.low
    assert ours['low'] == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours['high'] == pytest.approx(theirs.high, abs=0.1 * width)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    truth = srcc(*correlated(seed=10**6, prompts=20000)[:2])[0]
    covered, covered_by_image = 0, 0
    for seed in range(100):
        scores, mos, prompts = correlated(seed)
        by_prompt = interval(srcc(scores, mos, prompts, draw_prompts(40, seed=seed, resamples=100)))
        by_image = interval(srcc(scores, mos, np.arange(240), draw_prompts(240, seed=seed, resamples=100)))
        covered += by_prompt['low'] <= truth <= by_prompt['high']
        covered_by_image += by_image['low'] <= truth <= by_image['high']
    assert 0.88 <= covered / 100 <= 0.99
    assert covered_by_image / 100 < 0.8


def test_numbers_that_few_resamples_define_get_no_interval():
    assert interval(np.array([0.5, *np.linspace(0, 1, 96), *[np.nan] * 4]))['low'] == pytest.approx(0.025)
    assert interval(np.array([0.5, *np.linspace(0, 1, 94), *[np.nan] * 6])) == {'value': 0.5, 'low': None, 'high': None}
    assert interval(np.array([np.nan, 0.1, 0.2])) == {'value': None, 'low': None, 'high': None}


# tests and groups


@QUICK
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.04, 0.5, 1.0]), max_size=6))
def test_holms_correction_is_the_closed_test_of_bonferroni(p):
    subsets = [set(chosen) for size in range(1, len(p) + 1) for chosen in itertools.combinations(range(len(p)), size)]
    expected = [max(min(1, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in range(len(p))]
    np.testing.assert_allclose(holm(np.array(p)), expected)


def test_holms_correction_leaves_out_what_was_not_tested():
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.01])), [0.02, np.nan, 0.02])


@QUICK
@given(st.integers(0, 8).flatmap(lambda m: st.tuples(st.just(m), st.lists(st.booleans(), min_size=m * m, max_size=m * m))))
def test_two_share_a_letter_if_and_only_if_they_are_not_different(drawn):
    m, cells = drawn
    different = np.triu(np.array(cells, bool).reshape(m, m), 1)
    different |= different.T
    shown = letters(different)
    assert len(shown) == m and all('a' in first for first in shown[:1])
    for i, j in itertools.combinations(range(m), 2):
        assert bool(set(shown[i]) & set(shown[j])) != different[i, j]
    shares = [{i for i in range(m) if letter in shown[i]} for letter in set(''.join(shown))]
    assert not any(one < other for one in shares for other in shares)  # each letter is needed


def test_letters_do_not_run_out():
    shown = letters(~np.eye(60, dtype=bool))
    assert len(set(shown)) == 60 and shown[0] == 'a' and shown[52] == '(53)'


def test_metrics_that_are_equally_good_are_told_apart_in_one_of_twenty_cases():
    found = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        prompts, effect = np.repeat(np.arange(40), 4), generator.normal(size=(3, 40))
        mos = effect[0][prompts] + 0.3 * generator.normal(size=160)
        one, other = (mos + effect[k][prompts] + generator.normal(size=160) for k in (1, 2))
        draws = draw_prompts(40, seed=seed, resamples=100)
        found += difference_p(*(srcc(each, mos, prompts, draws) for each in (one, other)), 40) < 0.05
    assert 0.01 <= found / 200 <= 0.09
