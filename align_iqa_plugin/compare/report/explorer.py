"""What the script of the page shows of a data set: each image with its scores, the largest disagreements, small pictures."""

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from align_iqa_plugin.compare.report.leaderboard import interval_of, ranked, seconds_of, value_of
from align_iqa_plugin.data.images import ImageError, read_image
from align_iqa_plugin.runtime.interval import is_tie

MAX_POINTS = 3000
"""Dots in a chart of a data set; of more images, these are taken evenly from the lowest MOS to the highest."""

PICTURE_SIDE = 144  # longest side in pixels
PICTURE_QUALITY = 70
CARDS = 6  # images shown of the disagreements of a metric, in each direction


def without_failures(scores: pd.DataFrame) -> pd.DataFrame:
    """The score table with NaN for the scores of failures and for those that are not finite."""
    counts = np.isfinite(scores['score'].astype(float)) & (scores['reason'].fillna('') == '')
    return scores.assign(score=scores['score'].where(counts), reason=scores['reason'].fillna(''))


def images_and_scores(scores: pd.DataFrame, metrics: Sequence[str], value: str = 'score') -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of a data set, and the score, or another value, of each (rows) by each metric (columns)."""
    scores = scores[scores['metric'].isin(list(metrics))]
    # a name may stand in the labels more than once, with other prompts
    images = scores.drop_duplicates(['image', 'prompt']).set_index(['image', 'prompt'], drop=False)
    matrix = scores.pivot(index=['image', 'prompt'], columns='metric', values=value)
    matrix = matrix.reindex(index=images.index, columns=list(metrics))
    return images.reset_index(drop=True), matrix.reset_index(drop=True)


def explorer_data(
    numbers: Mapping,
    images: pd.DataFrame,
    matrix: pd.DataFrame,
    deviations: pd.DataFrame,
    runs: pd.DataFrame,
    limit: int,
    name: str,
) -> dict:
    """Images and metrics of a data set as plain data, with at most `limit` pictures.

    Args:
        numbers: of the data set, in the summary.
        images, matrix, deviations: of `images_and_scores`; the deviations are NaN where a metric states none.
        runs: the metric table, by metric.
        name: of the data set, for the progress bar.
    """
    metrics: list[dict[str, Any]] = []
    disagreements: dict[str, tuple[list, list]] = {}
    for metric in ranked(numbers):
        row = numbers['metrics'][metric]
        ranks, disagreements[metric] = _disagreements(images['mos'], matrix[metric] * (-1 if row['lower_better'] else 1))
        ends = interval_of(row.get('srcc')) or (None, None)
        metrics.append(
            {
                'name': metric,
                'lower_better': bool(row['lower_better']),
                'srcc': value_of(row.get('srcc')),
                'srcc_low': ends[0],
                'srcc_high': ends[1],
                'seconds': seconds_of(runs, metric),
                'ranked': len(ranks),
                'ranks': ranks,
            }
        )
    # the worst of every metric, then the second worst of every metric, and so on
    sides = [side for pair in disagreements.values() for side in pair]
    worst = list(dict.fromkeys(index for turn in itertools.zip_longest(*sides) for index in turn if index is not None))
    by_mos = list(images['mos'].dropna().sort_values(kind='stable').index)
    shown = sorted({*worst, *_spread(by_mos, MAX_POINTS - len(worst))})
    pictured = set([*worst, *(index for index in _spread(shown, limit) if index not in worst)][:limit])
    index_in_page = {index: number for number, index in enumerate(shown)}
    for data in metrics:
        scores = matrix[data['name']]
        data['scores'] = [_rounded(scores[index]) for index in shown]
        std = deviations[data['name']]
        data['std'] = [_rounded(std[index]) for index in shown] if std.notna().any() else None
        tied = _ties(images['prompt'], scores, std)
        data['ties'] = [tied[index] for index in shown] if std.notna().any() else None
        data['ranks'] = [data['ranks'].get(index) for index in shown]
        data['high'], data['low'] = ([index_in_page[index] for index in side] for side in disagreements[data['name']])
    scored = matrix.notna().any(axis=1)
    progress = tqdm(shown, desc=f'pictures of {name}', unit='image', leave=False, disable=None)
    return {
        'images': [_image(images.loc[index], index in pictured, bool(scored[index])) for index in progress],
        'metrics': metrics,
    }


def _disagreements(mos: pd.Series, scores: pd.Series) -> tuple[dict, tuple[list, list]]:
    """Rank of each image by MOS and by score (1 is best), and the images that the scores rank too high, and too low."""
    known = mos.notna() & scores.notna()
    mos, scores = mos[known], scores[known]
    by_mos, by_score = (values.rank(ascending=False, method='min').astype(int).tolist() for values in (mos, scores))
    ranks = dict(zip(mos.index, zip(by_mos, by_score, strict=True), strict=True))
    difference = (mos.rank(ascending=False) - scores.rank(ascending=False)).sort_values(kind='stable')
    high = [index for index in reversed(difference.index[-CARDS:]) if difference[index] > 0]
    low = [index for index in difference.index[:CARDS] if difference[index] < 0]
    return ranks, (high, low)


def _ties(prompts: pd.Series, scores: pd.Series, std: pd.Series) -> list[int]:
    """With how many other images of its prompt each image is tied (`is_tie`)."""
    found = np.zeros(len(prompts), int)
    for rows in prompts[prompts != ''].groupby(prompts).groups.values():
        score, error = scores.to_numpy(float)[rows], std.to_numpy(float)[rows]
        tied = is_tie(score[:, None], error[:, None], score, error)
        found[rows] = tied.sum(1) - np.diag(tied)
    return found.tolist()


def _spread(items: Sequence, count: int) -> list:
    """At most `count` of the items, evenly spaced from first to last."""
    if len(items) <= count:
        return list(items)
    return [items[round(number * (len(items) - 1) / max(1, count - 1))] for number in range(max(0, count))]


def _image(row: pd.Series, with_picture: bool, scored: bool) -> dict:
    image = {
        **{key: row[key] for key in ('prompt', 'generator', 'style')},
        'name': row['image'],
        'mos': _rounded(row['mos']),
        'mos_std': _rounded(row['mos_std']),
    }
    if with_picture and not scored:
        # no process may have survived decoding it, and this one has to
        image['no_picture'] = 'no metric could score it'
    elif with_picture:
        try:
            image['picture'] = _picture(row['path'])
        except ImageError:
            image['no_picture'] = 'the picture cannot be read'
    return image


def _picture(path: str) -> str:
    picture = read_image(path)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=PICTURE_QUALITY, optimize=True)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'


def _rounded(value: float) -> float | None:
    return float(f'{value:.6g}') if math.isfinite(value) else None
