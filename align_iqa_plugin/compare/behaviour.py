"""How metrics behave where no rating is needed: on degraded copies of a sample, on copies hardly changed, on empty pictures.

A metric of quality falls at every level of a degradation, and stays where it is under a change that people hardly see. In all
numbers higher is better: scores of metrics with `lower_better` are negated first.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas

from align_iqa_plugin.compare.significance import draw_prompts, interval, number
from align_iqa_plugin.compare.store import LabelledImage
from align_iqa_plugin.data.copies import Copy, copies_of, empty_pictures
from align_iqa_plugin.data.degradations import BLANKS, CHANGES, LEVELS

Scores = dict[tuple[str, int], np.ndarray]
"""By name of the copy and level, the scores of the n images of the sample, NaN where there is none; higher is better."""


def behaviour_images(images: Sequence[LabelledImage], count: int, *, seed: int) -> list[LabelledImage]:
    """What is to be scored beside the images of a data set: its sample, copies of the sample, and empty pictures.

    Copies are scored with the prompts of their images, empty pictures with that of the first image. A larger sample holds
    the smaller one of the same seed.

    Args:
        images: of the data set; those with a problem are not drawn.
        count: of different images, at most.
    """
    present = {image.sha256: image for image in reversed(images) if not image.problem}
    sample = sorted(present.values(), key=lambda image: hashlib.sha256(f'{seed} {image.sha256}'.encode()).digest())[:count]
    made = [
        _labelled(copy, image.image, image.prompt)
        for image in sample
        for copy in (Copy('original', 0, image.path, image.sha256), *copies_of(image.path, image.sha256))
    ]
    return [*made, *(_labelled(copy, '', sample[0].prompt) for copy in empty_pictures() if sample)]


def _labelled(copy: Copy, image: str, prompt: str) -> LabelledImage:
    return LabelledImage(image, copy.uri, copy.sha256, prompt, copy=copy.name, level=copy.level)


def summarise_behaviour(copies: pandas.DataFrame, scores: pandas.DataFrame, *, seed: int, resamples: int) -> dict:
    """How each metric behaves on one data set, as plain JSON data: None where a number is undefined, never NaN.

    A sequence is an image and its copies of one kind, level after level. It is monotone if every score is below the one
    before; it is not with two equal scores, nor with one that is missing.

    Args:
        copies: the rows of `Store.copy_table` of this data set.
        scores: the rows of `Store.score_table` of this data set.
        seed: of the resamples of the images, for the intervals.
        resamples: how many, at least 2.

    Returns:
        {'n': images in the sample, 'metrics': {metric: {
            'lower_better',
            'monotone': {'all' and each kind: {'value', 'low', 'high', 'n', 'failed'}}: the share of the n sequences that are
                monotone, with its 95 % interval; 'failed' lack a score,
            'levels': {kind: [mean score of the images, ..., mean score of level 4]}, in standard deviations of the sample's
                images from their mean; of the images whose sequence is whole,
            'spread': that standard deviation, in units of the metric,
            'changes': {change: {'mean', 'absolute', 'raw_mean', 'raw_absolute', 'n', 'failed'}}: mean change of the score and
                its mean absolute value, in standard deviations and in units of the metric, over n images,
            'percentiles': {picture: the share of the data set's images that score worse}}},
         'failures': [{'metric', 'reason', 'count', 'example'}]: copies without a score, one of them by name}
    """
    metrics = {
        metric: _of_metric(rows, scores[scores['metric'] == metric], seed=seed, resamples=resamples)
        for metric, rows in copies.groupby('metric')
    }
    missing = copies[copies['reason'] != '']
    failures = [
        {'metric': metric, 'reason': reason, 'count': len(rows), 'example': copy_name(rows.iloc[0])}
        for (metric, reason), rows in missing.groupby(['metric', 'reason'], sort=False)
    ]
    sample = copies.loc[copies['copy'] == 'original', ['image', 'prompt']].drop_duplicates()
    return {'n': len(sample), 'metrics': metrics, 'failures': failures}


def copy_name(row: pandas.Series) -> str:
    """'a.png, blur 2' for a row of `Store.copy_table`."""
    return f'{row["image"]}, {row["copy"]} {row["level"] or ""}'.strip(', ')


def _of_metric(rows: pandas.DataFrame, real: pandas.DataFrame, *, seed: int, resamples: int) -> dict:
    sign = -1 if rows['lower_better'].iloc[0] else 1
    rows, real = (table.assign(score=sign * table['score'].where(table['reason'] == '')) for table in (rows, real))
    empty = rows['copy'].isin(list(BLANKS))
    table = rows[~empty].pivot(index=['image', 'prompt'], columns=['copy', 'level'], values='score')
    by_copy = {key: table[key].to_numpy(float) for key in table.columns}
    original = by_copy['original', 0]
    known = original[np.isfinite(original)]
    spread = known.std(ddof=1) if len(known) > 1 else 0.0
    spread = spread if spread > 0 else np.nan
    sequences = {kind: _sequence(by_copy, kind) for kind in LEVELS}
    draws = draw_prompts(len(table), seed=seed, resamples=resamples)
    return {
        'lower_better': sign < 0,
        'monotone': {'all': _monotone_share(sequences.values(), draws)}
        | {kind: _monotone_share([sequence], draws) for kind, sequence in sequences.items()},
        'levels': {
            kind: [number(value) for value in (_mean(sequence[_whole(sequence)]) - _mean(known)) / spread]
            for kind, sequence in sequences.items()
        },
        'spread': number(spread),
        'changes': {name: _change(by_copy[name, 0] - original, spread) for name in CHANGES},
        'percentiles': {
            name: _share_below(rows.loc[rows['copy'] == name, 'score'].iloc[0], real['score'].to_numpy(float))
            for name in BLANKS
        },
    }


def _sequence(by_copy: Scores, kind: str) -> np.ndarray:
    """Scores of each image and of its copies, (n, 1 + levels)."""
    levels = range(1, len(LEVELS[kind]) + 1)
    return np.column_stack([by_copy['original', 0], *(by_copy[kind, level] for level in levels)])


def _whole(sequence: np.ndarray) -> np.ndarray:
    """Which sequences lack no score, (n,)."""
    return np.isfinite(sequence).all(1)


def _monotone_share(sequences: Iterable[np.ndarray], draws: np.ndarray) -> dict:
    stacked = np.stack(list(sequences))  # (kinds, n, 1 + levels)
    monotone = (np.diff(stacked) < 0).all(2)  # a comparison with NaN is false
    samples = monotone.mean(0) @ draws / len(draws)
    return {**interval(samples), 'n': monotone.size, 'failed': int((~np.isfinite(stacked).all(2)).sum())}


def _change(differences: np.ndarray, spread: float) -> dict:
    known = differences[np.isfinite(differences)]
    mean, absolute = float(_mean(known)), float(_mean(np.abs(known)))
    return {
        'mean': number(mean / spread),
        'absolute': number(absolute / spread),
        'raw_mean': number(mean),
        'raw_absolute': number(absolute),
        'n': len(known),
        'failed': len(differences) - len(known),
    }


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the images; NaN, and no warning, of none."""
    return values.mean(0) if len(values) else np.full(values.shape[1:], np.nan)


def _share_below(score: float, real: np.ndarray) -> float | None:
    known = real[np.isfinite(real)]
    return float((known < score).mean()) if np.isfinite(score) and len(known) else None
