"""Which metrics differ: resamples of the prompts, intervals, paired tests, and letters for the metrics that do not differ.

Images of one prompt are alike, so whole prompts are drawn (a cluster bootstrap); single images would promise more than is
known. scipy.stats.bootstrap gives the same intervals (method='percentile', over prompts), but computes one sample at a time
and cannot share its samples between metrics, which the paired tests need.
"""

import string
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from align_iqa_plugin.evaluation.correlation import srcc

ALPHA = 0.05  # of the tests; intervals are of 95 %


def draw_prompts(count: int, *, seed: int, resamples: int) -> np.ndarray:
    """How often each prompt is in each sample, (count, 1 + resamples): first the data itself, then draws with replacement."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.hstack([np.ones((count, 1)), drawn.T])


def number(value: float) -> float | None:
    """A plain number, None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def interval(samples: np.ndarray) -> dict[str, float | None]:
    """Value and 95 % percentile interval of a statistic whose first sample is the data.

    The interval is None where the value is, and where more than one resample in twenty leaves the number undefined.
    """
    value = number(samples[0])
    resampled = samples[1:][np.isfinite(samples[1:])]
    if value is None or not len(resampled) or len(resampled) < 0.95 * len(samples[1:]):
        return {'value': value, 'low': None, 'high': None}
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
    return {'value': value, 'low': float(low), 'high': float(high)}


def difference_p(first: np.ndarray, second: np.ndarray, prompts: int) -> float:
    """Two-sided p of the difference of a number between two metrics, from the same samples, the first being the data.

    The difference is divided by its spread in the resamples and looked up in Student's t with `prompts` - 1 degrees of
    freedom. Counting the resamples on the other side of zero could give no p below 1 / resamples, which is too coarse to be
    corrected for many tests. NaN with fewer than 2 prompts, or where the numbers are undefined.
    """
    difference = first - second
    if prompts < 2 or np.isnan(difference[0]) or np.isfinite(difference).mean() < 0.95:
        return float('nan')
    if np.abs(difference[0]) < 1e-12:
        return 1.0
    spread = np.nanstd(difference[1:], ddof=1)
    return float(2 * stats.t.sf(np.abs(difference[0]) / spread, prompts - 1)) if spread > 0 else float('nan')


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values (m,) for the m tests made; NaN is no test and stays NaN."""
    p = np.asarray(p, float)
    result = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN is sorted last
    corrected = p[order] * np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(corrected), 1)
    return result


def letters(different: np.ndarray) -> list[str]:
    """Compact letter display (Piepho 2004): two rows share a letter if and only if they are not different.

    Args:
        different: (m, m), symmetric, whether each two are; in the order in which letters are to be given.
    """
    groups = [frozenset(range(len(different)))] if len(different) else []
    for i, j in np.argwhere(np.triu(different, 1)):
        split = {part for group in groups for part in ((group - {i}, group - {j}) if {i, j} <= group else (group,))}
        groups = [group for group in split if not any(group < other for other in split)]
    names = [*string.ascii_letters, *(f'({place})' for place in range(len(string.ascii_letters) + 1, len(groups) + 1))]
    named = list(zip(names, sorted(groups, key=sorted), strict=False))
    return [''.join(name for name, group in named if row in group) for row in range(len(different))]


def srcc_tests(
    ranked: Sequence[str],
    scores: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    mos: np.ndarray,
    prompts: np.ndarray,
    draws: np.ndarray,
) -> np.ndarray:
    """Corrected p of the difference of SRCC of each two metrics, (m, m); NaN on the diagonal and where there is no test.

    Two metrics are compared on the images that both scored.

    Args:
        ranked: the m metrics.
        scores: of each metric, (n,), higher is better, NaN where it has none.
        samples: SRCC of each metric on all images that it scored, (r,).
    """
    known = {}

    def samples_on(metric, images):
        if images.sum() == np.isfinite(scores[metric]).sum():
            return samples[metric]
        key = metric, images.tobytes()
        if key not in known:
            known[key] = srcc(scores[metric][images], mos[images], prompts[images], draws)
        return known[key]

    pairs = [(i, j) for i in range(len(ranked)) for j in range(i)]
    raw = []
    for i, j in pairs:
        both = np.isfinite(scores[ranked[i]]) & np.isfinite(scores[ranked[j]])
        one, other = (samples_on(ranked[place], both) for place in (i, j))
        raw.append(difference_p(one, other, len(np.unique(prompts[both]))))
    result = np.full((len(ranked), len(ranked)), np.nan)
    for (i, j), corrected in zip(pairs, holm(np.array(raw)), strict=True):
        result[i, j] = result[j, i] = corrected
    return result
