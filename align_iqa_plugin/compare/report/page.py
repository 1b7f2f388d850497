"""Shows a comparison of metrics: one page that opens from disk, tables for a README and in pyiqa's forms, and plots.

The page asks nothing of a network: pictures, styles and script stand in it, and its content policy forbids the rest. What
comes from the data (prompts, names, reasons) is untrusted, and is shown as text only.
"""

import base64
import hashlib
import io
import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image
from tqdm import tqdm

from align_iqa_plugin.compare.report.leaderboard import (
    efficiency_csv,
    field_form,
    file_name,
    interval_of,
    leaderboard_csv,
    leaderboard_markdown,
    ranked,
    value_of,
)
from align_iqa_plugin.compare.report.plots import ranking_figure, save_figure, scatter_figure
from align_iqa_plugin.data.images import ImageError, read_image

MAX_PICTURES = 600
"""Pictures in a page, shared by its data sets; those of the largest disagreements come first. About 5 kB each."""

MAX_POINTS = 3000
"""Dots in a chart of a data set; of more images, these are taken evenly from the lowest opinion to the highest."""

PICTURE_SIDE = 144  # longest side in pixels
PICTURE_QUALITY = 70
CARDS = 6  # images shown of the disagreements of a metric, in each direction
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
    Column(
        'srcc', 'SRCC', 'Spearman correlation of scores and opinions: correlations of the order. 1 is best, 0 chance.', 'high'
    ),
    Column('whisker', '', ''),
    Column('group', 'Group', 'Metrics that share a letter are not told apart by these images.', low_first=True, optional=True),
    Column('plcc', 'PLCC', 'Pearson correlation of scores and opinions as they are.', 'high'),
    Column('plcc_fitted', 'PLCC fitted', 'The same after a logistic curve is fitted from scores to opinions.', 'high'),
    Column('krcc', 'KRCC', 'Kendall correlation: pairs in the right order less pairs in the wrong one, as a share.', 'high'),
    Column('rmse', 'RMSE', 'Typical error in points of opinion, after that fit; low is good.', 'low', low_first=True),
    Column(
        'pairwise',
        'Pairs',
        'Of two images of one prompt whose opinions differ by more than their noise, '
        'how often the metric prefers the one that people prefer; .5 is chance.',
        'high',
        optional=True,
    ),
    Column(
        'regret',
        'Regret',
        "Points of opinion lost by taking the metric's favourite of a prompt's images; low is good.",
        'low',
        low_first=True,
        optional=True,
    ),
    Column('system', 'Systems', "SRCC over the generators' mean scores.", 'high', optional=True),
    Column('align_srcc', 'Alignment', 'SRCC against opinions on how well an image fits its prompt.', 'high', optional=True),
    Column('shuffled_srcc', 'Shuffled', 'SRCC when every image is scored with the prompt of another one.', optional=True),
    Column('shuffled_align_srcc', 'Alignment, shuffled', 'The same, against the opinions on alignment.', optional=True),
    Column('p_vs_best', 'p', 'Of the difference from the best metric, Holm-corrected.', optional=True, low_first=True),
    Column('n', 'Images', 'Images with a score.'),
    Column('failures', 'Failed', 'Images without a score.', low_first=True),
    Column(
        'seconds', 'Seconds', 'Mean time of an image, warm, without reading its file.', 'low', low_first=True, optional=True
    ),
)
WORDS = ('metric', 'group')
COUNTS = ('rank', 'n', 'failures')

RUN_COLUMNS = {
    'device': 'Device',
    'score_range': 'Range of scores',
    'decode_seconds': 'Reading, s',
    'peak_mb': 'Peak memory, MB',
    'options': 'Options',
    'weights_sha256': 'Weights, SHA-256',
    'code_version': 'Code',
}


def write_page(directory: Path, summary: Mapping, scores: pd.DataFrame, metrics: pd.DataFrame, provenance: Mapping) -> None:
    """Write `index.html` and beside it leaderboard.csv, leaderboard.md, efficiency.csv, scores.parquet and the plots.

    Args:
        directory: is made if need be; files of these names in it are replaced.
        summary: of `statistics.summarise`.
        scores: the score table, one row per data set, metric and image; paths as seen from the current folder.
        metrics: the metric table, one row per metric.
        provenance: names and values to be shown, nested as one likes; `hardware` also names the columns of efficiency.csv.

    Raises:
        ValueError: the summary holds no data set.
        OSError: a file could not be written.
    """
    if not summary['datasets']:
        raise ValueError('There is nothing to show: the summary holds no data set.')
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        'leaderboard.csv': leaderboard_csv(summary),
        'leaderboard.md': leaderboard_markdown(summary),
        'efficiency.csv': efficiency_csv(metrics, str(provenance.get('hardware', ''))),
    }
    for name, text in texts.items():
        _write(directory / name, text)
    scores.to_parquet(directory / 'scores.parquet', index=False)
    files = [*texts, 'scores.parquet']
    scored = _without_failures(scores)
    for number, (name, numbers) in enumerate(summary['datasets'].items(), 1):
        rows = scored[scored['dataset'] == name]
        # two names may differ only in what a file's name cannot hold
        same = [file_name(other) for other in summary['datasets']].count(file_name(name)) > 1
        end = f'{file_name(name)}_{number}' if same else file_name(name)
        for kind, figure in (('ranking', ranking_figure(name, numbers)), ('scatter', scatter_figure(name, numbers, rows))):
            for ending in ('png', 'svg'):
                files.append(f'{kind}_{end}.{ending}')
                save_figure(figure, directory / files[-1])
    _write(directory / 'index.html', page_html(summary, scores, metrics, provenance, files))


def _write(path: Path, text: str) -> None:
    # names of files may hold bytes that are no text
    path.write_bytes(text.encode('utf-8', 'replace'))


def page_html(
    summary: Mapping, scores: pd.DataFrame, metrics: pd.DataFrame, provenance: Mapping, files: Sequence[str] = ()
) -> str:
    """The page as HTML; `files` are the names of those beside it, the other arguments are those of `write_page`."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    scores = _without_failures(scores)
    style, script = ((folder / name).read_text(encoding='utf-8') for name in ('page.css', 'page.js'))
    runs = metrics.set_index('metric', drop=False)
    limit = MAX_PICTURES // len(summary['datasets'])
    views, data = [], []
    for name, numbers in summary['datasets'].items():
        images, matrix = _images_and_scores(scores[scores['dataset'] == name], ranked(numbers))
        shown = _script_data(numbers, images, matrix, runs, limit, name)
        views.append(_view(name, numbers, scores[scores['dataset'] == name], runs, images, shown))
        data.append(shown)
    compared = dict.fromkeys(metric for numbers in summary['datasets'].values() for metric in numbers['metrics'])
    return environment.get_template('page.html.jinja').render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        measured=_count(len(compared), 'metric'),
        pictures=_count(sum(numbers['n'] for numbers in summary['datasets'].values()), 'image'),
        resamples=summary.get('resamples'),
        seed=summary.get('seed'),
        words=WORDS,
        datasets=views,
        data=data,
        missing=[(row['metric'], row['reason'] or 'no reason given') for row in _rows(runs) if row['metric'] not in compared],
        provenance={
            name: shlex.join(value) if name == 'command' and not isinstance(value, str) else value
            for name, value in provenance.items()
        },
        runs=[
            (row['metric'], [_plain(row.get(key)) for key in RUN_COLUMNS]) for row in _rows(runs) if row['metric'] in compared
        ],
        run_columns=list(RUN_COLUMNS.values()),
        files=files,
    )


def _policy_hash(text: str) -> str:
    return f'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'


# What the template shows of a data set --------------------------------------------------------------------------------


def _view(name: str, numbers: Mapping, scores: pd.DataFrame, runs: pd.DataFrame, images: pd.DataFrame, data: Mapping) -> dict:
    rows = {metric: {**numbers['metrics'][metric], 'seconds': _seconds(runs, metric)} for metric in ranked(numbers)}
    columns = [
        column
        for column in COLUMNS
        if not column.optional or any(_number(row, column) not in (None, '') for row in rows.values())
    ]
    best = {}
    for column in columns:
        known = [_number(row, column) for row in rows.values() if column.best and _number(row, column) is not None]
        best[column.key] = {'high': max, 'low': min}[column.best](known) if len(set(known)) > 1 else None
    prompts = images['prompt_id'].where(images['prompt_id'] != '', images['prompt'])
    subtitle = [_count(numbers['n'], 'image'), _count(len(rows), 'metric')]
    if prompts.any():
        subtitle.insert(1, _count(prompts[prompts != ''].nunique(), 'prompt'))
    if numbers.get('axis'):
        subtitle.append(f'opinions about {numbers["axis"]}')
    if numbers.get('best'):
        subtitle.append(f'best by SRCC: {numbers["best"]}')
    pictures = sum('picture' in image for image in data['images'])
    unreadable = sum('no_picture' in image for image in data['images'])
    left_out = []
    if pictures + unreadable < len(data['images']):
        left_out.append(f'To stay small, this page holds the pictures of {pictures:,} of {len(data["images"]):,} images.')
    if unreadable:
        left_out.append(f'{_count(unreadable, "picture")} could not be read.')
    devices = {str(runs['device'][metric]) for metric in rows if metric in runs.index}
    lowest = min([0, *((interval_of(row.get('srcc')) or (value_of(row.get('srcc')) or 0,))[0] for row in rows.values())])
    low = math.floor(lowest * 10) / 10
    return {
        'name': name,
        'subtitle': ' · '.join(subtitle),
        'noise': _noise(numbers.get('noise') or {}),
        'columns': columns,
        'whisker_from': _minus(field_form(low, 1)) if low else '0',
        'rows': [
            {
                'metric': metric,
                'note': _notes(row, scores[scores['metric'] == metric]),
                'cells': [_cell(column, metric, row, best[column.key], low) for column in columns],
            }
            for metric, row in rows.items()
        ],
        'generators': sorted(set(images['generator']) - {''}),
        'points': f'{len(data["images"]):,} of {len(images):,} images are shown, from the lowest opinion to the highest.'
        if len(data['images']) < images['mos'].notna().sum()
        else '',
        'pictures': ' '.join(left_out),
        'strata': _strata(rows, numbers.get('prompt_words') or {}),
        'has_speed': any(row['seconds'] and value_of(row.get('srcc')) is not None for row in rows.values()),
        'device': f' on {devices.pop()}' if len(devices) == 1 else '',
        'failures': _failures(scores[scores['metric'].isin(list(rows))]),
    }


def _number(row: Mapping, column: Column) -> float | str | None:
    return row.get(column.key) if column.key in WORDS else value_of(row.get(column.key))


def _cell(column: Column, metric: str, row: Mapping, best: float | None, low: float) -> dict:
    """A cell of the ranking: its text, its interval, and what it is sorted by ('' where undefined)."""
    if column.key == 'whisker':
        return {'column': column, 'whisker': _whisker(row.get('srcc'), low)}
    value = metric if column.key == 'metric' else _number(row, column)
    ends = interval_of(row.get(column.key))
    if column.key in WORDS:
        text = value or '–'
    elif value is None:
        text = '–'
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


def _notes(row: Mapping, scores: pd.DataFrame) -> str:
    notes = []
    if row['lower_better']:
        notes.append('lower is better')
    if scores['uses_prompt'].any():
        notes.append('reads the prompt')
    return ', '.join(notes)


def _noise(noise: Mapping) -> str:
    """How much of the order of the opinions is known, as a sentence."""
    if not noise.get('pairs'):
        return ''
    if noise.get('raters') is None:
        return f'{noise["pairs"]:,} pairs of images of one prompt; how far their opinions are noise is not known.'
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
    """Text and classes of a cell, whose colour tells the number's sign and size."""
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


# What the script shows of a data set ----------------------------------------------------------------------------------


def _without_failures(scores: pd.DataFrame) -> pd.DataFrame:
    """The score table with NaN for every score that does not count: that of a failure, or one that is no finite number."""
    counts = np.isfinite(scores['score'].astype(float)) & (scores['reason'].fillna('') == '')
    return scores.assign(score=scores['score'].where(counts), reason=scores['reason'].fillna(''))


def _images_and_scores(scores: pd.DataFrame, metrics: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of a data set, and the score of each (rows) by each metric (columns)."""
    scores = scores[scores['metric'].isin(list(metrics))]
    # a name may stand in the labels more than once, with other prompts
    images = scores.drop_duplicates(['image', 'prompt']).set_index(['image', 'prompt'], drop=False)
    matrix = scores.pivot(index=['image', 'prompt'], columns='metric', values='score')
    matrix = matrix.reindex(index=images.index, columns=list(metrics))
    return images.reset_index(drop=True), matrix.reset_index(drop=True)


def _script_data(
    numbers: Mapping, images: pd.DataFrame, matrix: pd.DataFrame, runs: pd.DataFrame, limit: int, name: str
) -> dict:
    """Images and metrics of a data set as plain data, with at most `limit` pictures."""
    metrics, disagreements = [], {}
    for metric in ranked(numbers):
        row = numbers['metrics'][metric]
        places, disagreements[metric] = _disagreements(images['mos'], matrix[metric] * (-1 if row['lower_better'] else 1))
        ends = interval_of(row.get('srcc')) or (None, None)
        metrics.append(
            {
                'name': metric,
                'lower_better': bool(row['lower_better']),
                'srcc': value_of(row.get('srcc')),
                'srcc_low': ends[0],
                'srcc_high': ends[1],
                'seconds': _seconds(runs, metric),
                'placed': len(places),
                'places': places,
            }
        )
    # the worst of every metric, then the second worst of every metric, and so on
    sides = [side for pair in disagreements.values() for side in pair]
    worst = list(dict.fromkeys(index for turn in itertools.zip_longest(*sides) for index in turn if index is not None))
    by_opinion = list(images['mos'].dropna().sort_values(kind='stable').index)
    shown = sorted({*worst, *_spread(by_opinion, MAX_POINTS - len(worst))})
    pictured = set([*worst, *(index for index in _spread(shown, limit) if index not in worst)][:limit])
    place_in_page = {index: place for place, index in enumerate(shown)}
    for data in metrics:
        scores = matrix[data['name']]
        data['scores'] = [_rounded(scores[index]) for index in shown]
        data['places'] = [data['places'].get(index) for index in shown]
        data['high'], data['low'] = ([place_in_page[index] for index in side] for side in disagreements[data['name']])
    progress = tqdm(shown, desc=f'pictures of {name}', unit='image', leave=False, disable=None)
    return {
        'images': [_image(images.loc[index], with_picture=index in pictured) for index in progress],
        'metrics': metrics,
    }


def _disagreements(mos: pd.Series, scores: pd.Series) -> tuple[dict, tuple[list, list]]:
    """Place of each image by opinion and by score (1 is best), and the images that the scores place too high, and too low."""
    known = mos.notna() & scores.notna()
    mos, scores = mos[known], scores[known]
    by_opinion, by_score = (values.rank(ascending=False, method='min').astype(int).tolist() for values in (mos, scores))
    places = dict(zip(mos.index, zip(by_opinion, by_score, strict=True), strict=True))
    difference = (mos.rank(ascending=False) - scores.rank(ascending=False)).sort_values(kind='stable')
    high = [index for index in reversed(difference.index[-CARDS:]) if difference[index] > 0]
    low = [index for index in difference.index[:CARDS] if difference[index] < 0]
    return places, (high, low)


def _spread(items: Sequence, count: int) -> list:
    """At most `count` of the items, evenly spaced from first to last."""
    if len(items) <= count:
        return list(items)
    return [items[round(number * (len(items) - 1) / max(1, count - 1))] for number in range(max(0, count))]


def _image(row: pd.Series, *, with_picture: bool) -> dict:
    image = {
        **{key: row[key] for key in ('prompt', 'generator', 'style')},
        'name': row['image'],
        'mos': _rounded(row['mos']),
        'mos_std': _rounded(row['mos_std']),
    }
    if with_picture:
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


# Numbers and words ----------------------------------------------------------------------------------------------------


def _seconds(runs: pd.DataFrame, metric: str) -> float | None:
    return value_of(runs['seconds'][metric]) if metric in runs.index else None


def _rows(table: pd.DataFrame) -> Iterable[dict]:
    return table.to_dict('records')


def _rounded(value: float) -> float | None:
    return float(f'{value:.6g}') if math.isfinite(value) else None


def _count(number: int, noun: str) -> str:
    return f'{number:,} {noun}{"s" * (number != 1)}'


def _minus(text: str) -> str:
    return text.replace('-', '−')


def _plain(value: object) -> str:
    if value is None or value != value or value == '':
        return '–'
    return f'{value:.4g}' if isinstance(value, float) else str(value)
