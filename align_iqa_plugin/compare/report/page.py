"""The page of a comparison, which opens from disk, and beside it tables for a README and in pyiqa's forms, and plots.

The page needs no network: it contains its pictures, style and script, and its content policy forbids everything else. What
comes from the data (prompts, names, reasons) is untrusted, and is shown as text only.
"""

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from align_iqa_plugin.compare.report.behaviour import behaviour_csv, behaviour_view
from align_iqa_plugin.compare.report.explorer import explorer_data, images_and_scores, without_failures
from align_iqa_plugin.compare.report.leaderboard import (
    counted,
    efficiency_csv,
    file_name,
    leaderboard_csv,
    leaderboard_markdown,
    ranked,
)
from align_iqa_plugin.compare.report.plots import behaviour_figure, ranking_figure, save_figure, scatter_figure
from align_iqa_plugin.compare.report.ranking import WORDS, dataset_view
from align_iqa_plugin.runtime.atomic import atomic_file, atomic_write

MAX_PICTURES = 600
"""Pictures in a page, shared by its data sets; those of the largest disagreements come first. About 5 kB each."""

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

    Where the summary holds the behaviour of metrics, behaviour.csv is beside them.

    Args:
        directory: is created if there is none; files of these names in it are replaced.
        summary: of `run.write_results`.
        scores: the score table, one row per data set, metric and image; paths as seen from the current folder.
        metrics: the metric table, one row per metric.
        provenance: names and values to be shown, nested at will; `hardware` also names the columns of efficiency.csv.

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
    if any('behaviour' in numbers for numbers in summary['datasets'].values()):
        texts['behaviour.csv'] = behaviour_csv(summary)
    for name, text in texts.items():
        _write(directory / name, text)
    with atomic_file(directory / 'scores.parquet') as part, part.open('wb') as file:
        scores.to_parquet(file, index=False)
    files = [*texts, 'scores.parquet']
    scored = without_failures(scores)
    for number, (name, numbers) in enumerate(summary['datasets'].items(), 1):
        rows = scored[scored['dataset'] == name]
        # two names may differ only in characters that the name of a file cannot have
        same = [file_name(other) for other in summary['datasets']].count(file_name(name)) > 1
        end = f'{file_name(name)}_{number}' if same else file_name(name)
        figures = {'ranking': ranking_figure(name, numbers), 'scatter': scatter_figure(name, numbers, rows)}
        if 'behaviour' in numbers:
            figures['behaviour'] = behaviour_figure(name, numbers['behaviour'])
        for kind, figure in figures.items():
            for ending in ('png', 'svg'):
                files.append(f'{kind}_{end}.{ending}')
                save_figure(figure, directory / files[-1])
    _write(directory / 'index.html', page_html(summary, scores, metrics, provenance, files))


def _write(path: Path, text: str) -> None:
    atomic_write(path, text.encode('utf-8', 'replace'))  # names of files may hold bytes that are not text


def page_html(
    summary: Mapping, scores: pd.DataFrame, metrics: pd.DataFrame, provenance: Mapping, files: Sequence[str] = ()
) -> str:
    """The page as HTML; `files` are the names of those beside it, the other arguments are those of `write_page`."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    scores = without_failures(scores)
    style, script = ((folder / name).read_text(encoding='utf-8') for name in ('page.css', 'page.js'))
    runs = metrics.set_index('metric', drop=False)
    limit = MAX_PICTURES // len(summary['datasets'])
    views, data = [], []
    for name, numbers in summary['datasets'].items():
        images, matrix = images_and_scores(scores[scores['dataset'] == name], ranked(numbers))
        _, deviations = images_and_scores(scores[scores['dataset'] == name], ranked(numbers), 'std')
        shown = explorer_data(numbers, images, matrix, deviations, runs, limit, name)
        behaviour = behaviour_view(numbers['behaviour']) if 'behaviour' in numbers else None
        view = dataset_view(name, numbers, scores[scores['dataset'] == name], runs, images, shown)
        views.append({**view, 'behaviour': behaviour})
        data.append(shown)
    compared = dict.fromkeys(metric for numbers in summary['datasets'].values() for metric in numbers['metrics'])
    records = metrics.to_dict('records')
    return environment.get_template('page.html.jinja').render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        measured=counted(len(compared), 'metric'),
        pictures=counted(sum(numbers['n'] for numbers in summary['datasets'].values()), 'image'),
        resamples=summary.get('resamples'),
        seed=summary.get('seed'),
        words=WORDS,
        datasets=views,
        data=data,
        missing=[(row['metric'], row['reason'] or 'no reason given') for row in records if row['metric'] not in compared],
        provenance={
            name: shlex.join(value) if name == 'command' and not isinstance(value, str) else value
            for name, value in provenance.items()
        },
        runs=[(row['metric'], [_plain(row.get(key)) for key in RUN_COLUMNS]) for row in records if row['metric'] in compared],
        run_columns=list(RUN_COLUMNS.values()),
        files=files,
    )


def _policy_hash(text: str) -> str:
    return f'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'


def _plain(value: object) -> str:
    if value is None or value != value or value == '':
        return '–'
    return f'{value:.4g}' if isinstance(value, float) else str(value)
