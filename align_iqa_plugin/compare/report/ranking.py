"""What the page shows of a data set without a script: the ranking, the strata and the failures, as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from align_iqa_plugin.compare.report.leaderboard import field_form, interval_of, ranked, seconds_of, value_of
from align_iqa_plugin.data.training_images import fitted_to
from align_iqa_plugin.register import CONFIGS
from align_iqa_plugin.runtime.counts import counted

STRATA = {'generator': 'generator', 'style': 'style', 'prompt_length': 'length of the prompt'}


@dataclass(frozen=True)
class Column:
    """A column of the ranking.

    Attributes:
        key: its name in the summary.
        meaning: for the reader.
        best: 'high' or 'low' where one value is the best one, '' where none is.
        low_first: whether the first sorting by it begins with low values.
        optional: whether it is left out where no metric has a value.
    """

    key: str
    title: str
    meaning: str = ''
    best: str = ''
    low_first: bool = False
    optional: bool = False


COLUMNS = (
    Column('rank', 'Rank', 'Place by SRCC.', low_first=True),
    Column('metric', 'Metric', low_first=True),
    Column('srcc', 'SRCC', 'Spearman correlation of scores and MOS: how alike their orders are. 1 is best, 0 chance.', 'high'),
    Column('whisker', '', ''),
    Column('group', 'Group', 'Metrics that share a letter do not differ significantly.', low_first=True, optional=True),
    Column('plcc', 'PLCC', 'Pearson correlation of scores and MOS as they are.', 'high'),
    Column('plcc_fitted', 'PLCC fitted', 'The same after a logistic curve is fitted from scores to MOS.', 'high'),
    Column('krcc', 'KRCC', 'Kendall correlation: pairs in the right order less pairs in the wrong one, as a share.', 'high'),
    Column('rmse', 'RMSE', 'Typical error in points of MOS, after that fit; low is good.', 'low', low_first=True),
    Column(
        'pairwise',
        'Pairs',
        'Of two images of one prompt whose MOS differ by more than their noise, '
        'how often the metric prefers the one that people prefer; .5 is chance.',
        'high',
        optional=True,
    ),
    Column(
        'regret',
        'Regret',
        "Points of MOS lost by taking the metric's favourite of a prompt's images; low is good.",
        'low',
        low_first=True,
        optional=True,
    ),
    Column('system', 'Systems', "SRCC over the generators' mean scores.", 'high', optional=True),
    Column('align_srcc', 'Alignment', 'SRCC with the MOS of how well an image fits its prompt.', 'high', optional=True),
    Column('shuffled_srcc', 'Shuffled', 'SRCC when every image is scored with the prompt of another one.', optional=True),
    Column('shuffled_align_srcc', 'Alignment, shuffled', 'The same, with the MOS of alignment.', optional=True),
    Column('p_vs_best', 'p', 'Of the difference from the best metric, Holm-corrected.', optional=True, low_first=True),
    Column('n', 'Images', 'Images with a score.'),
    Column('failures', 'Failed', 'Images without a score.', low_first=True),
    Column(
        'seconds', 'Seconds', 'Mean time of an image, warm, without reading its file.', 'low', low_first=True, optional=True
    ),
)
WORDS = ('metric', 'group')
COUNTS = ('rank', 'n', 'failures')


def dataset_view(
    name: str, numbers: Mapping, scores: pd.DataFrame, runs: pd.DataFrame, images: pd.DataFrame, shown: Mapping
) -> dict:
    """What the template is given of a data set.

    Args:
        numbers: of the data set, in the summary.
        scores: the rows of the score table of this data set, without scores of failures.
        runs: the metric table, by metric.
        images: one row for each image.
        shown: of `explorer.explorer_data`.
    """
    rows = {metric: {**numbers['metrics'][metric], 'seconds': seconds_of(runs, metric)} for metric in ranked(numbers)}
    columns = [
        column
        for column in COLUMNS
        if not column.optional or any(_number(row, column) not in (None, '') for row in rows.values())
    ]
    best = {column.key: _best(column, rows) for column in columns}
    devices = {str(runs['device'][metric]) for metric in rows if metric in runs.index}
    lowest = min([0, *((interval_of(row.get('srcc')) or (value_of(row.get('srcc')) or 0,))[0] for row in rows.values())])
    low = math.floor(lowest * 10) / 10
    some = len(shown['images']) < images['mos'].notna().sum()
    return {
        'name': name,
        'subtitle': _subtitle(numbers, images),
        'noise': _noise(numbers.get('noise') or {}),
        'columns': columns,
        'whisker_from': _minus(field_form(low, 1)) if low else '0',
        'rows': [
            {
                'metric': metric,
                'note': _notes(metric, row, scores[scores['metric'] == metric]),
                'cells': [_cell(column, metric, row, best[column.key], low) for column in columns],
            }
            for metric, row in rows.items()
        ],
        'generators': sorted(set(images['generator']) - {''}),
        'points': f'{len(shown["images"]):,} of {counted(len(images), "image")} are shown, from the lowest MOS to the highest.'
        if some
        else '',
        'has_std': any(metric['std'] for metric in shown['metrics']),
        'pictures': _missing_pictures(shown['images']),
        'strata': _strata(rows, numbers.get('prompt_words') or {}),
        'has_speed': any(row['seconds'] and value_of(row.get('srcc')) is not None for row in rows.values()),
        'device': f' on {devices.pop()}' if len(devices) == 1 else '',
        'failures': _failures(scores[scores['metric'].isin(list(rows))]),
    }


def _subtitle(numbers: Mapping, images: pd.DataFrame) -> str:
    parts = [counted(numbers['n'], 'image'), counted(len(numbers['metrics']), 'metric')]
    prompts = images['prompt_id'].where(images['prompt_id'] != '', images['prompt'])
    if prompts.any():
        parts.insert(1, counted(prompts[prompts != ''].nunique(), 'prompt'))
    if numbers.get('axis'):
        parts.append(f'opinion scores on {numbers["axis"]}')
    if numbers.get('best'):
        parts.append(f'best by SRCC: {numbers["best"]}')
    return ' · '.join(parts)


def _missing_pictures(images: list[Mapping]) -> str:
    pictures, unreadable = (sum(key in image for image in images) for key in ('picture', 'no_picture'))
    sentences = []
    if pictures + unreadable < len(images):
        sentences.append(f'To stay small, this page holds the pictures of {pictures:,} of {counted(len(images), "image")}.')
    if unreadable:
        sentences.append(f'{counted(unreadable, "picture")} could not be read.')
    return ' '.join(sentences)


def _best(column: Column, rows: Mapping[str, Mapping]) -> float | None:
    """The best value of a column; None where no value is, or all are equal."""
    known = [value for row in rows.values() if column.best and (value := value_of(row.get(column.key))) is not None]
    return {'high': max, 'low': min}[column.best](known) if len(set(known)) > 1 else None


def _number(row: Mapping, column: Column) -> float | str | None:
    return row.get(column.key) if column.key in WORDS else value_of(row.get(column.key))


def _cell(column: Column, metric: str, row: Mapping, best: float | None, low: float) -> dict:
    """A cell of the ranking: its text, its interval, and what it is sorted by ('' where undefined)."""
    if column.key == 'whisker':
        return {'column': column, 'whisker': _whisker(row.get('srcc'), low)}
    value = metric if column.key == 'metric' else _number(row, column)
    ends = interval_of(row.get(column.key))
    if value is None or isinstance(value, str):
        text = value or '–'
    elif column.key in COUNTS:
        text = f'{value:,}'
    elif column.key == 'seconds':
        text = f'{value:.3g}'
    else:
        text = _minus(field_form(value))
    return {
        'column': column,
        'text': text,
        'interval': _minus(f'{field_form(ends[0], 3)} to {field_form(ends[1], 3)}') if ends else '',
        'sort': '' if value is None else value,
        'best': value is not None and best is not None and value == best,
        'whisker': None,
    }


def _whisker(estimate: object, low: float) -> dict:
    """Places of a value and its interval on a line of 170 units from `low` to 1, with a margin of 5."""

    def place(value: float) -> float:
        return round(5 + 160 * (value - low) / (1 - low), 1)

    value, ends = value_of(estimate), interval_of(estimate)
    return {
        'grid': [place(at) for at in (0, 0.5, 1)],
        'value': None if value is None else place(value),
        'ends': [place(end) for end in ends] if ends else None,
    }


def _notes(metric: str, row: Mapping, scores: pd.DataFrame) -> str:
    notes = []
    if row['lower_better']:
        notes.append('lower is better')
    if scores['uses_prompt'].any():
        notes.append('reads the prompt')
    if seen := fitted_to(scores['sha256']) if metric in CONFIGS else 0:
        notes.append(f'was fitted to {seen:,} of these images')
    return ', '.join(notes)


def _noise(noise: Mapping) -> str:
    """How much of the order of the MOS is known, as a sentence."""
    if not noise.get('pairs'):
        return ''
    if noise.get('raters') is None:
        return f'{noise["pairs"]:,} pairs of images of one prompt; the noise of their MOS is not known.'
    return (
        f'Of {noise["pairs"]:,} pairs of images of one prompt, {noise["distinguishable"]:,} differ by more than the noise of '
        f'{noise["raters"]} ratings an image ({noise["source"]}).'
    )


def _strata(rows: Mapping[str, Mapping], prompt_words: Mapping) -> list[dict]:
    """Tables of SRCC, metrics by parts of the images; those of at least two parts."""
    tables = []
    for key, title in STRATA.items():
        strata = {metric: row.get('strata', {}).get(key, {}) for metric, row in rows.items()}
        names = list(dict.fromkeys(name for parts in strata.values() for name in parts))
        if len(names) < 2:
            continue
        columns = []
        for name in names:
            note = f'n = {max(parts[name]["n"] for parts in strata.values() if name in parts):,}'
            if key == 'prompt_length' and name in prompt_words:
                note = f'{" to ".join(map(str, prompt_words[name]))} words, {note}'
            columns.append((name, note))
        cells = [(metric, [_heat(parts.get(name, {}).get('srcc')) for name in names]) for metric, parts in strata.items()]
        tables.append({'title': title, 'columns': columns, 'rows': cells})
    return tables


def _heat(estimate: object) -> tuple[str, str]:
    """Text and classes of a cell; its colour shows the sign and size of the number."""
    value = value_of(estimate)
    if value is None:
        return '–', ''
    return _minus(field_form(value, 3)), f'part-{round(abs(value) * 10)}{" negative" if value < 0 else ""}'


def _failures(scores: pd.DataFrame) -> list[dict]:
    failed = scores[scores['score'].isna()]
    return [
        {
            'metric': metric,
            'reason': reason or 'the score is no finite number',
            'count': len(rows),
            'example': rows['image'].iloc[0],
        }
        for (metric, reason), rows in failed.groupby(['metric', 'reason'], sort=False)
    ]


def _minus(text: str) -> str:
    return text.replace('-', '−')
