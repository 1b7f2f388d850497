"""What a table of scores says of the metrics in it: correlations with opinions, with intervals, and which differ at all.

Everything is resampled by prompt (a cluster bootstrap): images of one prompt are alike, so single images would promise
more than is known. An image without a prompt stands for itself. The statistics here take images as numpy arrays with
    prompts   (n,), the number of each image's prompt, 0 to p - 1
    draws     (p, r), how often each prompt is in each of r samples; see `draw_prompts`, whose first sample is the data
and return one number for each sample, NaN where it is undefined. scipy.stats.bootstrap gives the same intervals
(method='percentile', over prompts), but computes one sample at a time and cannot share its samples between metrics,
which the paired tests need.
"""

import string
import warnings
from collections.abc import Sequence

import numpy as np
import pandas
from pyiqa.metrics.correlation_coefficient import fit_curve
from scipy import stats
from tqdm import tqdm

from align_iqa_plugin.data.releases import find_release

ALPHA = 0.05  # of the tests; intervals are of 95 %
# opinions of each image, by release: what makes a standard error of the standard deviation that the labels state
RATERS = {'AGIQA-3K': (21, 'Li et al., AGIQA-3K, arXiv 2306.04717: 21 ratings of each image')}
IMAGE_COLUMNS = ['image', 'prompt', 'prompt_id', 'generator', 'style', 'mos', 'mos_std', 'mos_align']
METRIC_COLUMNS = ['lower_better', 'uses_prompt']
SCORE_COLUMNS = ['dataset', 'metric', 'score', 'reason', 'shuffled_score']
NOT_STATED = 'not stated'  # the stratum of images of which a generator, style or prompt is unknown


def summarise(scores: pandas.DataFrame, *, seed: int = 0, resamples: int = 1000) -> dict:
    """All statistics of a score table, as plain JSON data: None where a number is undefined, never NaN.

    Scores of a metric with `lower_better` are negated first, so that positive always means correlations; a correlation
    that is negative all the same stays so. An image is scored if its score is finite and its reason empty; all other
    images of the data set are failures of the metric, also where its row is missing: n + failures is the number of
    images. Every number but `failures` is of the images that the metric scored.

    Args:
        scores: a row for each data set, metric and image, with the columns dataset, metric, image, prompt, prompt_id,
            generator, style, mos, mos_std, mos_align, score, reason, lower_better, uses_prompt, shuffled_score;
            the order of the rows does not matter.
        seed: of the resamples; they are the same for all metrics of a data set.
        resamples: how many, at least 2.

    Returns:
        {'datasets': {name: {
            'n': images, 'axis': 'quality', 'best': metric of the highest SRCC or None,
            'noise': {'raters', 'source', 'pairs', 'distinguishable'}: the pairs of images of one prompt with different
                MOS, and how many of them differ by more than their noise; raters is None where it is not known,
            'prompt_words': {'short': [fewest, most], ...}: words of the prompts in the strata by length,
            'metrics': {metric: {
                'n', 'failures', 'lower_better',
                'srcc', 'krcc', 'plcc': {'value', 'low', 'high'}, a 95 % interval,
                'plcc_fitted', 'rmse': the same after pyiqa's 4-parameter logistic fit, rmse in the unit of the MOS,
                'pairwise': {'value', 'low', 'high', 'pairs'}, see `pairwise_accuracy`,
                'regret': {'value', 'low', 'high'} in the unit of the MOS, see `best_of_n_regret`,
                'system': {'value', 'generators'}, see `system_srcc`,
                'align_srcc': {'value', 'low', 'high'}, SRCC with `mos_align`,
                'shuffled_srcc', 'shuffled_align_srcc': SRCC of the scores with other images' prompts, with `mos` and
                    with `mos_align`; None for metrics that read no prompt,
                'p_vs_best': of the difference of SRCC to the best metric, None for the best itself,
                'group': metrics that share a letter are not distinguishable; '' without an SRCC,
                'strata': {'generator', 'style', 'prompt_length': {name: {'n', 'srcc'}}},
                'rank': 1 is the highest SRCC; metrics without one share the last rank}}}},
         'seed', 'resamples'}

        The interval of numbers after the fit is that of one fit to all images: fitting each resample anew takes
        milliseconds a fit, which is minutes for twenty metrics. `p_vs_best` and `group` are of the same tests, of all
        pairs of metrics with Holm's correction for all of them: the best metric is known only from the data, so that
        tests against it alone would be too bold, and so a metric shares a letter with the best if and only if its
        `p_vs_best` is .05 or more. Two metrics are compared on the images that both scored.

    Raises:
        ValueError: a column is missing, `resamples` is below 2, or the rows contradict each other.
    """
    missing = [name for name in (*SCORE_COLUMNS, *IMAGE_COLUMNS, *METRIC_COLUMNS) if name not in scores.columns]
    if missing:
        raise ValueError(f'The score table has no column {", ".join(map(repr, missing))}.')
    if resamples < 2:
        raise ValueError(f'{resamples} resamples give no interval: at least 2 are needed, 1000 are usual.')
    return {
        'datasets': {name: _summarise_dataset(name, rows, seed, resamples) for name, rows in scores.groupby('dataset')},
        'seed': seed,
        'resamples': resamples,
    }


def draw_prompts(count: int, *, seed: int, resamples: int) -> np.ndarray:
    """How often each prompt is in each sample, (count, 1 + resamples): first the data itself, then draws with replacement."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.hstack([np.ones((count, 1)), drawn.T])


def srcc(scores: np.ndarray, opinions: np.ndarray, prompts: np.ndarray | None = None, draws: np.ndarray | None = None):
    """Spearman's rank correlation in each sample, (r,); NaN for fewer than 3 images or where all are equal.

    Without `prompts` and `draws` the one sample is the data, as with `krcc` and `plcc`.
    """
    prompts, draws = _one_sample(scores) if draws is None else (prompts, draws)
    result = np.full(draws.shape[1], np.nan)
    if not _varies(scores, opinions):
        return result
    # a column is a sample; a few at once stay in the processor's cache
    for start in range(0, len(result), 64):
        weights = draws[prompts, start : start + 64]
        first, second = _centred_ranks(scores, weights), _centred_ranks(opinions, weights)
        weighted = weights * first
        covariance = np.einsum('nr,nr->r', weighted, second)
        variance = np.einsum('nr,nr->r', weighted, first)
        weighted = np.multiply(weights, second, out=weighted)
        variance *= np.einsum('nr,nr->r', weighted, second)
        result[start : start + 64] = _quotient(covariance, np.sqrt(variance))
    return result


def krcc(scores: np.ndarray, opinions: np.ndarray, prompts: np.ndarray | None = None, draws: np.ndarray | None = None):
    """Kendall's tau-b in each sample, (r,); NaN as for `srcc`.

    It counts pairs of images, so that the pairs of two prompts are counted once and then weighted by how often both
    prompts are drawn.
    """
    prompts, draws = _one_sample(scores) if draws is None else (prompts, draws)
    if not _varies(scores, opinions):
        return np.full(draws.shape[1], np.nan)
    order = np.argsort(prompts, kind='stable')
    first, second, prompts = _codes(scores[order]), _codes(opinions[order]), prompts[order]
    present, starts = np.unique(prompts, return_index=True)
    # single precision is exact for whole numbers below 2 ** 24: so many are in no sum of one image's pairs
    drawn = draws[present].astype(np.float32)
    agreeing = np.zeros(draws.shape[1])
    for rows in np.array_split(np.arange(len(first)), -(-(len(first) ** 2) // 2**21)):
        signs = np.sign(first[rows, None] - first).astype(np.int8)
        signs *= np.sign(second[rows, None] - second).astype(np.int8)
        by_prompt = np.add.reduceat(signs, starts, axis=1, dtype=np.float32)
        agreeing += np.einsum('nr,nr->r', by_prompt @ drawn, draws[prompts[rows]])
    untied = [_untied_pairs(values, prompts, draws) for values in (first, second)]
    return _quotient(agreeing, np.sqrt(untied[0]) * np.sqrt(untied[1]))


def plcc(scores: np.ndarray, opinions: np.ndarray, prompts: np.ndarray | None = None, draws: np.ndarray | None = None):
    """Pearson's linear correlation in each sample, (r,); NaN as for `srcc`."""
    prompts, draws = _one_sample(scores) if draws is None else (prompts, draws)
    if not _varies(scores, opinions):
        return np.full(draws.shape[1], np.nan)
    x, y = _standardised(scores), _standardised(opinions)
    n, x1, y1, xx, yy, xy = (_total(values, prompts, draws) for values in (np.ones(len(x)), x, y, x * x, y * y, x * y))
    n = np.maximum(n, 1)
    variances = [squares / n - (sums / n) ** 2 for sums, squares in ((x1, xx), (y1, yy))]
    # what rounding leaves of equal values is less than a millionth of the spread of all
    spread = np.prod([np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 0)), 0) for variance in variances], axis=0)
    return np.clip(_quotient(xy / n - x1 * y1 / n**2, spread), -1, 1)


def rmse(scores: np.ndarray, opinions: np.ndarray, prompts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Root of the mean squared error in each sample, (r,), as pyiqa computes it: 1e-8 is added to the mean."""
    squares = _total((scores - opinions) ** 2, prompts, draws)
    return np.sqrt(_quotient(squares, _total(np.ones(len(scores)), prompts, draws)) + 1e-8)


def fitted(scores: np.ndarray, opinions: np.ndarray) -> np.ndarray | None:
    """Scores on the scale of the opinions, (n,), by pyiqa's 4-parameter logistic fit; None where there is no fit."""
    if len(scores) < 4 or not _varies(scores, opinions):
        return None
    # where scipy finds no optimum, a curve of standardised scores is the same curve, sought from another start
    for values in (scores, _standardised(scores)):
        try:
            # it tries steep curves, and says so of exp and of the covariance of its parameters
            with warnings.catch_warnings(), np.errstate(all='ignore'):
                warnings.simplefilter('ignore')
                result = fit_curve(values, opinions)
        except RuntimeError:  # scipy's word for a fit without an optimum
            continue
        if np.isfinite(result).all():
            return result
    return None


def pairwise_accuracy(
    scores: np.ndarray, opinions: np.ndarray, errors: np.ndarray, prompts: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, int]:
    """How often a metric picks the better of two images of one prompt, 0 to 1, in each sample, and of how many pairs.

    Args:
        scores, opinions: (n,), higher is better.
        errors: (n,), standard error of each opinion. A pair counts if its opinions differ by more than 1.96 standard
            errors of the difference, as of opinions of other people; that is on the safe side where the same people
            saw both. Where an error is NaN, any difference counts.

    Returns:
        (r,), NaN without a pair; equal scores are half right.
    """
    first, second = distinguishable_pairs(opinions, errors, prompts)
    right = (1 + np.sign(scores[first] - scores[second]) * np.sign(opinions[first] - opinions[second])) / 2
    of = prompts[first]
    return _quotient(_total(right, of, draws), _total(np.ones(len(of)), of, draws)), len(of)


def distinguishable_pairs(opinions: np.ndarray, errors: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of each pair that `pairwise_accuracy` counts, as two arrays of indices."""
    pairs = [np.triu_indices(len(images), 1) + (images,) for images in _by_prompt(prompts)]
    first = np.concatenate([np.empty(0, int), *(images[i] for i, _, images in pairs)])
    second = np.concatenate([np.empty(0, int), *(images[j] for _, j, images in pairs)])
    noise = 1.96 * np.hypot(errors[first], errors[second])
    counts = np.abs(opinions[first] - opinions[second]) > np.nan_to_num(noise, nan=0.0)
    return first[counts], second[counts]


def best_of_n_regret(scores: np.ndarray, opinions: np.ndarray, prompts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """What is lost by showing the image of a prompt that the metric picks, in the unit of the opinions, (r,).

    The opinion of the best image of the prompt minus that of the picked one, mean over prompts with two images or
    more; NaN without such a prompt. Of several images with the highest score, one is picked by chance: their mean counts.
    """
    several = _by_prompt(prompts)
    lost = [opinions[images].max() - opinions[images][scores[images] == scores[images].max()].mean() for images in several]
    of = np.array([prompts[images[0]] for images in several], int)
    return _quotient(_total(np.array(lost), of, draws), _total(np.ones(len(of)), of, draws))


def system_srcc(scores: np.ndarray, opinions: np.ndarray, generators: np.ndarray) -> tuple[float, int]:
    """SRCC of mean score and mean opinion over generators, and how many there are; NaN for fewer than 3 generators.

    Images whose generator is '' are left out.
    """
    names = np.unique(generators[generators != ''])
    means = [[values[generators == name].mean() for name in names] for values in (scores, opinions)]
    return float(srcc(*map(np.array, means))[0]), len(names)


def interval(samples: np.ndarray) -> dict[str, float | None]:
    """Value and 95 % percentile interval of a statistic whose first sample is the data.

    The interval is None where the value is, and where more than one resample in twenty leaves the number undefined.
    """
    value = _number(samples[0])
    resampled = samples[1:][np.isfinite(samples[1:])]
    if value is None or not len(resampled) or len(resampled) < 0.95 * len(samples[1:]):
        return {'value': value, 'low': None, 'high': None}
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
    return {'value': value, 'low': float(low), 'high': float(high)}


def difference_p(first: np.ndarray, second: np.ndarray, prompts: int) -> float:
    """Two-sided p of the difference of a number between two metrics, from the same samples, the first being the data.

    The difference over its spread in the resamples, by Student's t with one degree of freedom less than prompts. Counting
    the resamples on the other side of zero could give no p below 1 / resamples, too coarse to be corrected for many tests.
    NaN with fewer than 2 prompts, or where the numbers are undefined.
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
    names = [*string.ascii_letters, *(f'({number})' for number in range(len(string.ascii_letters) + 1, len(groups) + 1))]
    named = list(zip(names, sorted(groups, key=sorted), strict=False))
    return [''.join(name for name, group in named if row in group) for row in range(len(different))]


def _summarise_dataset(name: str, rows: pandas.DataFrame, seed: int, resamples: int) -> dict:
    images = _images(name, rows)
    prompts = _prompt_numbers(images)
    draws = draw_prompts(prompts.max() + 1, seed=seed, resamples=resamples)
    mos, mos_align = images['mos'].to_numpy(float), images['mos_align'].to_numpy(float)
    raters, source = _raters(name)
    errors = images['mos_std'].to_numpy(float) / (np.sqrt(raters) if raters else np.nan)
    generators, styles = images['generator'].to_numpy(str), images['style'].to_numpy(str)
    lengths, prompt_words = _prompt_lengths(images['prompt'])
    strata = {
        'generator': _members(generators, np.unique(generators)),
        'style': _members(styles, np.unique(styles)),
        'prompt_length': _members(lengths, [*prompt_words, *([''] if '' in lengths else [])]),
    }

    def drawn(of):  # the samples where there are other prompts to draw, or else the data alone
        return draws if len(np.unique(of)) > 1 else draws[:, :1]

    metrics, scores, samples = {}, {}, {}
    tables = dict(list(rows.groupby('metric')))
    for metric, table in tqdm(tables.items(), desc=f'statistics of {name}', unit='metric', leave=False, disable=None):
        sign, uses_prompt = -1 if table['lower_better'].iloc[0] else 1, table['uses_prompt'].iloc[0]
        table = table.set_index(['image', 'prompt']).reindex(pandas.MultiIndex.from_frame(images[['image', 'prompt']]))
        score = sign * table['score'].to_numpy(float)
        scored = np.isfinite(score) & ~(table['reason'].notna() & (table['reason'] != '')).to_numpy()
        scores[metric] = np.where(scored, score, np.nan)
        x, y, of = score[scored], mos[scored], prompts[scored]
        samples[metric] = srcc(x, y, of, drawn(of))
        curve = fitted(x, y)
        undefined = np.array([np.nan])
        right, pairs = pairwise_accuracy(x, y, errors[scored], of, drawn(of))
        system, systems = system_srcc(x, y, generators[scored])
        aligned = scored & np.isfinite(mos_align)
        shuffled = np.where(uses_prompt, sign * table['shuffled_score'].to_numpy(float), np.nan)
        metrics[metric] = {
            'n': int(scored.sum()),
            'failures': int((~scored).sum()),
            'lower_better': sign < 0,
            'srcc': interval(samples[metric]),
            'plcc': interval(plcc(x, y, of, drawn(of))),
            'plcc_fitted': interval(undefined if curve is None else plcc(curve, y, of, drawn(of))),
            'krcc': interval(krcc(x, y, of, drawn(of))),
            'rmse': interval(undefined if curve is None else rmse(curve, y, of, drawn(of))),
            'pairwise': {**interval(right), 'pairs': pairs},
            'regret': interval(best_of_n_regret(x, y, of, drawn(of))),
            'system': {'value': _number(system), 'generators': systems},
            'align_srcc': interval(srcc(score[aligned], mos_align[aligned], prompts[aligned], drawn(prompts[aligned]))),
            'shuffled_srcc': _plain_srcc(shuffled, mos),
            'shuffled_align_srcc': _plain_srcc(shuffled, mos_align),
            'strata': {
                kind: {
                    stratum: {'n': int((scored & members).sum()), 'srcc': _plain_srcc(scores[metric][members], mos[members])}
                    for stratum, members in of_kind.items()
                }
                for kind, of_kind in strata.items()
            },
        }

    ordered = sorted(metrics, key=lambda metric: -_or_lowest(metrics[metric]['srcc']['value']))
    ranked = [metric for metric in ordered if metrics[metric]['srcc']['value'] is not None]
    p = _pairwise_tests(ranked, scores, samples, mos, prompts, draws)
    groups = dict(zip(ranked, letters(p < ALPHA), strict=True))
    for metric in metrics:
        value = _or_lowest(metrics[metric]['srcc']['value'])
        metrics[metric] |= {
            'p_vs_best': _number(p[0, ranked.index(metric)]) if metric in ranked[1:] else None,
            'group': groups.get(metric, ''),
            'rank': 1 + sum(_or_lowest(other['srcc']['value']) > value for other in metrics.values()),
        }
    return {
        'n': len(images),
        'axis': 'quality',
        'noise': {
            'raters': raters,
            'source': source,
            'pairs': len(distinguishable_pairs(mos, np.full(len(mos), np.nan), prompts)[0]),
            'distinguishable': len(distinguishable_pairs(mos, errors, prompts)[0]),
        },
        'prompt_words': prompt_words,
        'metrics': metrics,
        'best': ranked[0] if ranked else None,
    }


def _images(name, rows) -> pandas.DataFrame:
    """One row an image, in an order that is not that of the table; ValueError where rows contradict each other."""
    images = rows[IMAGE_COLUMNS].drop_duplicates().sort_values(['image', 'prompt'], ignore_index=True)
    twice = rows[rows.duplicated(['metric', 'image', 'prompt'])]
    if len(twice):
        raise ValueError(f'{name}: {twice["metric"].iloc[0]} has several rows for the image {twice["image"].iloc[0]}.')
    twice = images[images.duplicated(['image', 'prompt'])]
    if len(twice):
        raise ValueError(
            f'{name}: the rows of the image {twice["image"].iloc[0]} differ in its MOS, generator, style or prompt: '
            'were its labels changed between two runs?'
        )
    unrated = images[~np.isfinite(images['mos'].to_numpy(float))]
    if len(unrated):
        raise ValueError(f'{name}: the image {unrated["image"].iloc[0]} has no MOS.')
    for column in METRIC_COLUMNS:
        kinds = rows.groupby('metric')[column].nunique()
        if (kinds > 1).any():
            raise ValueError(f'{name}: the rows of {kinds.idxmax()} differ in {column}.')
    return images


def _prompt_numbers(images) -> np.ndarray:
    """The number of each image's prompt; as in the splits, letters' case and white space tell no prompts apart."""
    keys = [
        ('prompt', ' '.join(prompt.split()).casefold()) if prompt.strip() else ('id', number) if number else ('image', image)
        for prompt, number, image in zip(images['prompt'], images['prompt_id'], images['image'], strict=True)
    ]
    known = {key: number for number, key in enumerate(sorted(set(keys)))}
    return np.array([known[key] for key in keys])


def _raters(name) -> tuple[int | None, str | None]:
    try:
        return RATERS.get(find_release(name).name, (None, None))
    except ValueError:  # someone's own data set
        return None, None


def _prompt_lengths(prompts: Sequence[str]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """'short', 'medium' or 'long' for each image, by the terciles of the words of the different prompts, and their bounds."""
    words = np.array([len(prompt.split()) for prompt in prompts])
    names = np.full(len(words), '', dtype='<U6')
    different = [len(prompt.split()) for prompt in sorted(set(prompts)) if prompt.strip()]
    if len(set(different)) < 2:
        return names, {}
    names[words > 0] = np.array(['short', 'medium', 'long'])[
        np.searchsorted(np.quantile(different, [1 / 3, 2 / 3]), words[words > 0], side='left')
    ]
    bounds = {name: words[names == name] for name in ('short', 'medium', 'long') if (names == name).any()}
    return names, {name: [int(of.min()), int(of.max())] for name, of in bounds.items()}


def _members(names: np.ndarray, order: Sequence[str]) -> dict[str, np.ndarray]:
    """Which images are of each name, by name; nothing where no name is stated."""
    return {name or NOT_STATED: names == name for name in map(str, order)} if (names != '').any() else {}


def _pairwise_tests(ranked, scores, samples, mos, prompts, draws) -> np.ndarray:
    """Corrected p of each two metrics, (m, m); NaN on the diagonal and where there is no test."""
    known = {}

    def on(metric, images):
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
        raw.append(difference_p(on(ranked[i], both), on(ranked[j], both), len(np.unique(prompts[both]))))
    result = np.full((len(ranked), len(ranked)), np.nan)
    for (i, j), corrected in zip(pairs, holm(np.array(raw)), strict=True):
        result[i, j] = result[j, i] = corrected
    return result


def _plain_srcc(scores, opinions) -> float | None:
    known = np.isfinite(scores) & np.isfinite(opinions)
    return _number(srcc(scores[known], opinions[known])[0])


def _number(value) -> float | None:
    return float(value) if np.isfinite(value) else None


def _or_lowest(value: float | None) -> float:
    return -np.inf if value is None else value


def _one_sample(values):
    return np.arange(len(values)), np.ones((len(values), 1))


def _varies(*columns) -> bool:
    return len(columns[0]) > 2 and all(values.min() < values.max() for values in columns)


def _codes(values) -> np.ndarray:
    """Whole numbers in the order of the values."""
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _standardised(values) -> np.ndarray:
    values = values / np.abs(values).max()
    values = values - values.mean()
    return values / values.std()


def _quotient(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=under > 0)


def _total(values, prompts, draws) -> np.ndarray:
    """The sum of a value over the images of each sample, (r,)."""
    return np.bincount(prompts, values, minlength=len(draws)) @ draws


def _by_prompt(prompts) -> list[np.ndarray]:
    """The images of each prompt that has two or more."""
    order = np.argsort(prompts, kind='stable')
    groups = np.split(order, np.flatnonzero(np.diff(prompts[order])) + 1)
    return [images for images in groups if len(images) > 1]


def _centred_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rank of each image in each sample, (n, r), minus the sample's mean rank; equal values share their mean rank."""
    codes = _codes(values)
    order, starts = _tied(codes)
    sizes = weights[order] if len(starts) == len(order) else np.add.reduceat(weights[order], starts, axis=0)
    ranks = np.cumsum(sizes, axis=0)
    middle = ranks[-1] / 2
    ranks -= sizes / 2
    ranks -= middle  # of ranks from a half: what is left is the same as with ranks from 1
    return ranks[codes]


def _untied_pairs(codes: np.ndarray, prompts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Twice the number of pairs in each sample whose values differ, (r,)."""
    order, starts = _tied(codes)
    sizes = np.add.reduceat(draws[prompts[order]], starts, axis=0)
    return sizes.sum(axis=0) ** 2 - np.einsum('gr,gr->r', sizes, sizes)


def _tied(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by value, and where in it each value starts."""
    order = np.argsort(codes, kind='stable')
    return order, np.flatnonzero(np.diff(codes[order], prepend=-1))
