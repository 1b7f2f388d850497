"""Correlations of scores with mean opinion scores (MOS): one definition for `evaluate`, `protocol` and `compare`.

`correlations` gives all numbers of one set of images. The functions that it calls also take resamples of the images, as
`compare` needs them for its intervals and tests:
    prompts   (n,), the number of each image's prompt, 0 to p - 1
    draws     (p, r), how often each prompt is in each of r samples
They return one number for each sample, (r,), and NaN where it is undefined: for fewer than 3 images, or where all scores or
all MOS are equal. Without `prompts` and `draws` the one sample is the data. The values are those of pyiqa's functions and of
scipy, which compute one sample at a time.
"""

import warnings
from collections.abc import Sequence

import numpy as np


def correlations(scores: Sequence[float], mos: Sequence[float]) -> dict[str, float | None]:
    """Signed correlations of scores with MOS, and the error in the unit of the MOS.

    Returns:
        SRCC, PLCC, PLCC_fitted (see `logistic_fit`; None where there is no fit), KRCC, RMSE (of the scores as they are), n.
    """
    x, y = np.asarray(scores, float), np.asarray(mos, float)
    curve = logistic_fit(x, y)
    return {
        'SRCC': float(srcc(x, y)[0]),
        'PLCC': float(plcc(x, y)[0]),
        'PLCC_fitted': None if curve is None else float(plcc(curve, y)[0]),
        'KRCC': float(krcc(x, y)[0]),
        'RMSE': float(rmse(x, y)[0]),
        'n': len(x),
    }


def logistic_fit(scores: np.ndarray, mos: np.ndarray) -> np.ndarray | None:
    """Scores on the scale of the MOS, (n,), by pyiqa's 4-parameter logistic fit; None where there is no fit.

    Where scipy finds no optimum from pyiqa's start, the fit starts again from standardised scores: the family of curves is
    the same, and the search is better conditioned.
    """
    if len(scores) < 4 or not _vary(scores, mos):
        return None
    from pyiqa.metrics.correlation_coefficient import fit_curve  # imports all of pyiqa; the other functions need none of it

    for values in (scores, _standardised(scores)):
        try:
            # steep curves on the way overflow exp and leave no covariance of the parameters
            with warnings.catch_warnings(), np.errstate(all='ignore'):
                warnings.simplefilter('ignore')
                fitted = fit_curve(values, mos)
        except RuntimeError:  # scipy found no optimum
            continue
        if np.isfinite(fitted).all():
            return fitted
    return None


def srcc(scores: np.ndarray, mos: np.ndarray, prompts: np.ndarray | None = None, draws: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rank correlation in each sample."""
    prompts, draws = _samples(scores, prompts, draws)
    result = np.full(draws.shape[1], np.nan)
    if not _vary(scores, mos):
        return result
    # a column is a sample; 64 at once stay in the processor's cache
    for start in range(0, len(result), 64):
        weights = draws[prompts, start : start + 64]
        first, second = _centred_ranks(scores, weights), _centred_ranks(mos, weights)
        weighted = weights * first
        covariance = np.einsum('nr,nr->r', weighted, second)
        variance = np.einsum('nr,nr->r', weighted, first)
        weighted = np.multiply(weights, second, out=weighted)
        variance *= np.einsum('nr,nr->r', weighted, second)
        result[start : start + 64] = ratio(covariance, np.sqrt(variance))
    return result


def krcc(scores: np.ndarray, mos: np.ndarray, prompts: np.ndarray | None = None, draws: np.ndarray | None = None) -> np.ndarray:
    """Kendall's tau-b in each sample.

    The pairs of images of two prompts are counted once, then weighted by how often both prompts are drawn.
    """
    prompts, draws = _samples(scores, prompts, draws)
    if not _vary(scores, mos):
        return np.full(draws.shape[1], np.nan)
    order = np.argsort(prompts, kind='stable')
    first, second, prompts = _codes(scores[order]), _codes(mos[order]), prompts[order]
    present, starts = np.unique(prompts, return_index=True)
    # single precision is exact for whole numbers below 2 ** 24, more than the pairs of one image
    drawn = draws[present].astype(np.float32)
    concordance = np.zeros(draws.shape[1])  # pairs in the same order less pairs in opposite orders, each counted twice
    for rows in np.array_split(np.arange(len(first)), -(-(len(first) ** 2) // 2**21)):
        signs = np.sign(first[rows, None] - first).astype(np.int8)
        signs *= np.sign(second[rows, None] - second).astype(np.int8)
        by_prompt = np.add.reduceat(signs, starts, axis=1, dtype=np.float32)
        concordance += np.einsum('nr,nr->r', by_prompt @ drawn, draws[prompts[rows]])
    untied = [_untied_pairs(values, prompts, draws) for values in (first, second)]
    return ratio(concordance, np.sqrt(untied[0]) * np.sqrt(untied[1]))


def plcc(scores: np.ndarray, mos: np.ndarray, prompts: np.ndarray | None = None, draws: np.ndarray | None = None) -> np.ndarray:
    """Pearson's linear correlation in each sample."""
    prompts, draws = _samples(scores, prompts, draws)
    if not _vary(scores, mos):
        return np.full(draws.shape[1], np.nan)
    x, y = _standardised(scores), _standardised(mos)
    n, x1, y1, xx, yy, xy = (totals(values, prompts, draws) for values in (np.ones(len(x)), x, y, x * x, y * y, x * y))
    n = np.maximum(n, 1)
    variances = [squares / n - (sums / n) ** 2 for sums, squares in ((x1, xx), (y1, yy))]
    # of equal values, rounding leaves less than a millionth of the spread of all
    spread = np.prod([np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 0)), 0) for variance in variances], axis=0)
    return np.clip(ratio(xy / n - x1 * y1 / n**2, spread), -1, 1)


def rmse(scores: np.ndarray, mos: np.ndarray, prompts: np.ndarray | None = None, draws: np.ndarray | None = None) -> np.ndarray:
    """Root mean squared error in each sample, defined from 1 image on; as in pyiqa, 1e-8 is added to the mean."""
    prompts, draws = _samples(scores, prompts, draws)
    squares = totals((scores - mos) ** 2, prompts, draws)
    return np.sqrt(ratio(squares, totals(np.ones(len(scores)), prompts, draws)) + 1e-8)


def totals(values: np.ndarray, prompts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The sum of a value over the images of each sample, (r,)."""
    return np.bincount(prompts, values, minlength=len(draws)) @ draws


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """`over` / `under`, NaN where `under` is not above 0."""
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=under > 0)


def _samples(values: np.ndarray, prompts: np.ndarray | None, draws: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The arguments as they are; without them, one sample that holds each image once."""
    if prompts is None or draws is None:
        return np.arange(len(values)), np.ones((len(values), 1))
    return prompts, draws


def _vary(*columns) -> bool:
    return len(columns[0]) > 2 and all(values.min() < values.max() for values in columns)


def _codes(values) -> np.ndarray:
    """Whole numbers in the order of the values."""
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _standardised(values) -> np.ndarray:
    values = values / np.abs(values).max()
    values = values - values.mean()
    return values / values.std()


def _centred_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rank of each image in each sample, (n, r), minus the sample's mean rank; equal values share their mean rank."""
    codes = _codes(values)
    order, starts = _ties(codes)
    sizes = weights[order] if len(starts) == len(order) else np.add.reduceat(weights[order], starts, axis=0)
    ranks = np.cumsum(sizes, axis=0)
    middle = ranks[-1] / 2
    ranks -= sizes / 2
    ranks -= middle  # these ranks count from a half; centred, they equal ranks from 1
    return ranks[codes]


def _untied_pairs(codes: np.ndarray, prompts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Twice the number of pairs in each sample whose values differ, (r,)."""
    order, starts = _ties(codes)
    sizes = np.add.reduceat(draws[prompts[order]], starts, axis=0)
    return sizes.sum(axis=0) ** 2 - np.einsum('gr,gr->r', sizes, sizes)


def _ties(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by value, and where in it each value starts."""
    order = np.argsort(codes, kind='stable')
    return order, np.flatnonzero(np.diff(codes[order], prepend=-1))
