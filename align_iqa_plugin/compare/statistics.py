"""Statistics of a score table: correlations with MOS, with intervals, and which metrics differ at all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas
from tqdm import tqdm

from align_iqa_plugin.compare.pairs import best_of_n_regret, distinguishable_pairs, pairwise_accuracy, system_srcc
from align_iqa_plugin.compare.significance import ALPHA, draw_prompts, interval, letters, number, srcc_tests
from align_iqa_plugin.data.releases import find_release
from align_iqa_plugin.evaluation.correlation import krcc, logistic_fit, plcc, rmse, srcc

# ratings of each image, by release: they turn the standard deviation of the labels into a standard error
RATERS = {'AGIQA-3K': (21, 'Li et al., AGIQA-3K, arXiv 2306.04717: 21 ratings of each image')}
IMAGE_COLUMNS = ['image', 'prompt', 'prompt_id', 'generator', 'style', 'mos', 'mos_std', 'mos_align']
METRIC_COLUMNS = ['lower_better', 'uses_prompt']
SCORE_COLUMNS = ['dataset', 'metric', 'score', 'reason', 'shuffled_score']
NOT_STATED = 'not stated'  # the stratum of images of which a generator, style or prompt is unknown


def summarise(scores: pandas.DataFrame, *, seed: int = 0, resamples: int = 1000) -> dict:
    """All statistics of a score table, as plain JSON data: None where a number is undefined, never NaN.

    Scores of a metric with `lower_better` are negated first, so that a positive correlation is always a good one; one that
    is still negative stays so. An image is scored if its score is finite and its reason empty; all other images of the data
    set are failures of the metric, also where its row is missing: n + failures is the number of images. Every number but
    `failures` describes the images that the metric scored.

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
                'group': metrics that share a letter do not differ significantly; '' without an SRCC,
                'strata': {'generator', 'style', 'prompt_length': {name: {'n', 'srcc'}}},
                'rank': 1 is the highest SRCC; metrics without one share the last rank}}}},
         'seed', 'resamples'}

        Numbers after the fit have the interval of one fit to all images: a fit takes milliseconds, so a fit to each
        resample would take minutes for twenty metrics. `p_vs_best` and `group` come from the same tests, of all pairs of
        metrics with Holm's correction for all of them: the best metric is known only from the data, so tests against it
        alone would be too liberal. A metric therefore shares a letter with the best if and only if its `p_vs_best` is .05
        or more.

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


@dataclass
class _DataSet:
    """The images of a data set, an array for each property, in the same order."""

    images: pandas.DataFrame
    prompts: np.ndarray  # the number of each image's prompt
    draws: np.ndarray
    mos: np.ndarray
    mos_align: np.ndarray
    errors: np.ndarray  # standard error of each MOS
    generators: np.ndarray
    strata: dict[str, dict[str, np.ndarray]]  # which images are of a stratum, by kind and name

    def draws_of(self, prompts: np.ndarray) -> np.ndarray:
        """The samples where there are other prompts to draw, or else the data alone."""
        return self.draws if len(np.unique(prompts)) > 1 else self.draws[:, :1]


def _summarise_dataset(name: str, rows: pandas.DataFrame, seed: int, resamples: int) -> dict:
    images = _images(name, rows)
    prompts, (raters, source) = _prompt_numbers(images), _raters(name)
    generators, styles = images['generator'].to_numpy(str), images['style'].to_numpy(str)
    lengths, prompt_words = _prompt_lengths(images['prompt'])
    data = _DataSet(
        images=images,
        prompts=prompts,
        draws=draw_prompts(prompts.max() + 1, seed=seed, resamples=resamples),
        mos=images['mos'].to_numpy(float),
        mos_align=images['mos_align'].to_numpy(float),
        errors=images['mos_std'].to_numpy(float) / (np.sqrt(raters) if raters else np.nan),
        generators=generators,
        strata={
            'generator': _members(generators, np.unique(generators)),
            'style': _members(styles, np.unique(styles)),
            'prompt_length': _members(lengths, [*prompt_words, *([''] if '' in lengths else [])]),
        },
    )
    metrics, scores, samples = {}, {}, {}
    tables = dict(list(rows.groupby('metric')))
    for metric, table in tqdm(tables.items(), desc=f'statistics of {name}', unit='metric', leave=False, disable=None):
        metrics[metric], scores[metric], samples[metric] = _summarise_metric(data, table)
    best = _add_ranking(data, metrics, scores, samples)
    return {
        'n': len(images),
        'axis': 'quality',
        'noise': {
            'raters': raters,
            'source': source,
            'pairs': len(distinguishable_pairs(data.mos, np.full(len(images), np.nan), prompts)[0]),
            'distinguishable': len(distinguishable_pairs(data.mos, data.errors, prompts)[0]),
        },
        'prompt_words': prompt_words,
        'metrics': metrics,
        'best': best,
    }


def _summarise_metric(data: _DataSet, table: pandas.DataFrame) -> tuple[dict, np.ndarray, np.ndarray]:
    """A metric's numbers but those of the ranking, its scores with NaN for failures, and its SRCC in each sample."""
    sign, uses_prompt = -1 if table['lower_better'].iloc[0] else 1, table['uses_prompt'].iloc[0]
    keys = pandas.MultiIndex.from_frame(data.images[['image', 'prompt']])
    table = table.set_index(['image', 'prompt']).reindex(keys)
    score = sign * table['score'].to_numpy(float)
    scored = np.isfinite(score) & ~(table['reason'].notna() & (table['reason'] != '')).to_numpy()
    shuffled = np.where(uses_prompt, sign * table['shuffled_score'].to_numpy(float), np.nan)
    scores = np.where(scored, score, np.nan)
    x, y, prompts = score[scored], data.mos[scored], data.prompts[scored]
    draws = data.draws_of(prompts)
    samples, curve, undefined = srcc(x, y, prompts, draws), logistic_fit(x, y), np.array([np.nan])
    right, pairs = pairwise_accuracy(x, y, data.errors[scored], prompts, draws)
    system, systems = system_srcc(x, y, data.generators[scored])
    aligned = scored & np.isfinite(data.mos_align)
    of_aligned = data.prompts[aligned]
    numbers = {
        'n': int(scored.sum()),
        'failures': int((~scored).sum()),
        'lower_better': sign < 0,
        'srcc': interval(samples),
        'plcc': interval(plcc(x, y, prompts, draws)),
        'plcc_fitted': interval(undefined if curve is None else plcc(curve, y, prompts, draws)),
        'krcc': interval(krcc(x, y, prompts, draws)),
        'rmse': interval(undefined if curve is None else rmse(curve, y, prompts, draws)),
        'pairwise': {**interval(right), 'pairs': pairs},
        'regret': interval(best_of_n_regret(x, y, prompts, draws)),
        'system': {'value': number(system), 'generators': systems},
        'align_srcc': interval(srcc(score[aligned], data.mos_align[aligned], of_aligned, data.draws_of(of_aligned))),
        'shuffled_srcc': _plain_srcc(shuffled, data.mos),
        'shuffled_align_srcc': _plain_srcc(shuffled, data.mos_align),
        'strata': {
            kind: {
                stratum: {'n': int((scored & members).sum()), 'srcc': _plain_srcc(scores[members], data.mos[members])}
                for stratum, members in strata.items()
            }
            for kind, strata in data.strata.items()
        },
    }
    return numbers, scores, samples


def _add_ranking(data: _DataSet, metrics: dict[str, dict], scores: Mapping, samples: Mapping) -> str | None:
    """Give each metric its rank, its p against the best one and its letters; the name of the best one."""
    values = {metric: numbers['srcc']['value'] for metric, numbers in metrics.items()}
    ranked = sorted((metric for metric in metrics if values[metric] is not None), key=lambda metric: -values[metric])
    p = srcc_tests(ranked, scores, samples, data.mos, data.prompts, data.draws)
    groups = dict(zip(ranked, letters(p < ALPHA), strict=True))
    for metric, numbers in metrics.items():
        better = [other for other in ranked if values[metric] is None or values[other] > values[metric]]
        numbers |= {
            'p_vs_best': number(p[0, ranked.index(metric)]) if metric in ranked[1:] else None,
            'group': groups.get(metric, ''),
            'rank': 1 + len(better),
        }
    return ranked[0] if ranked else None


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
    """The number of each image's prompt; as in the splits, case and white space make no difference."""
    keys = [
        ('prompt', ' '.join(prompt.split()).casefold()) if prompt.strip() else ('id', name) if name else ('image', image)
        for prompt, name, image in zip(images['prompt'], images['prompt_id'], images['image'], strict=True)
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


def _members(names: np.ndarray, order: Iterable[str]) -> dict[str, np.ndarray]:
    """Which images have each name; empty where no image has one."""
    return {name or NOT_STATED: names == name for name in map(str, order)} if (names != '').any() else {}


def _plain_srcc(scores, mos) -> float | None:
    known = np.isfinite(scores) & np.isfinite(mos)
    return number(srcc(scores[known], mos[known])[0])
