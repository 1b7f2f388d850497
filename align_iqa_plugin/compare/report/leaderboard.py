"""A comparison as plain tables: Markdown for a README, and CSV in the forms of pyiqa's own benchmark files."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.csv_text import csv_text

MARKDOWN_COLUMNS = {
    'srcc': 'SRCC',
    'plcc': 'PLCC',
    'plcc_fitted': 'PLCC fitted',
    'krcc': 'KRCC',
    'rmse': 'RMSE',
    'pairwise': 'pairs',
    'regret': 'regret',
}


def value_of(estimate: Any) -> float | None:
    """The number in a cell of the summary, which is one, or a mapping with `value`; None where it is undefined."""
    if isinstance(estimate, Mapping):
        estimate = estimate['value']
    return None if estimate is None or pd.isna(estimate) else estimate


def interval_of(estimate: object) -> tuple[float, float] | None:
    """Lower and upper end of a number's interval; None where it has none."""
    if not isinstance(estimate, Mapping) or value_of(estimate) is None:
        return None
    low, high = estimate.get('low'), estimate.get('high')
    return None if low is None or high is None or pd.isna(low) or pd.isna(high) else (low, high)


def field_form(value: float | None, digits: int = 4) -> str:
    """.8873 for 0.8873, as in the field's tables; a dash where it is undefined."""
    if value is None:
        return '–'
    return re.sub(r'^(-?)0\.', r'\1.', f'{value:.{digits}f}')


def ranked(numbers: Mapping) -> list[str]:
    """The metrics of a data set in order of rank; those without a rank come last."""
    rank = {metric: value_of(row.get('rank')) for metric, row in numbers['metrics'].items()}
    return sorted(rank, key=lambda metric: (rank[metric] is None, rank[metric] or 0))


def seconds_of(runs: pd.DataFrame, metric: str) -> float | None:
    """Mean seconds of an image; None where they were not measured.

    Args:
        runs: the metric table, by metric.
    """
    return value_of(runs['seconds'][metric]) if metric in runs.index else None


def leaderboard_csv(summary: Mapping) -> str:
    """PLCC/SRCC/KRCC of every metric and data set, in the form of pyiqa's `*_benchmark_results.csv`, but with their signs."""
    datasets = summary['datasets']
    rows = [['Metric name', *(f'{name}(PLCC/SRCC/KRCC)' for name in datasets)]]
    for metric in dict.fromkeys(metric for numbers in datasets.values() for metric in ranked(numbers)):
        rows.append([metric, *(_pyiqa_cell(numbers['metrics'].get(metric, {})) for numbers in datasets.values())])
    return csv_text(rows)


def _pyiqa_cell(row: Mapping) -> str:
    values = [value_of(row.get(key)) for key in ('plcc', 'srcc', 'krcc')]
    if all(value is None for value in values):
        return ''
    return '/'.join('nan' if value is None else str(round(float(value), 4)) for value in values)


def efficiency_csv(metrics: pd.DataFrame, hardware: str) -> str:
    """Mean seconds of an image on each device, and peak memory, in the form of pyiqa's `Efficiency_benchmark.csv`.

    Args:
        metrics: the metric table.
        hardware: the machine in words; with the kind of device before it, it names the column of seconds.
    """
    timed = metrics[metrics['seconds'].notna()].sort_values('seconds', kind='stable')
    kinds = [str(device).partition(':')[0] for device in timed['device']]
    columns = {kind: file_name(f'{kind}_{hardware}') for kind in sorted(set(kinds))}
    # pyiqa's files have no column for the memory of a run without a GPU
    memory = {kind: 'Peak Mem (GB)' if kind == 'cpu' else 'Peak GPU Mem (GB)' for kind in columns}
    header = ['Method', *columns.values(), *sorted({'Peak GPU Mem (GB)', *memory.values()})]
    rows = [header]
    for kind, row in zip(kinds, timed.to_dict('records'), strict=True):
        cells = {'Method': row['metric'], columns[kind]: round(row['seconds'], 4)}
        if pd.notna(row['peak_mb']):
            cells[memory[kind]] = round(row['peak_mb'] / 1000, 4)
        rows.append([cells.get(name, '') for name in header])
    return csv_text(rows)


def leaderboard_markdown(summary: Mapping) -> str:
    """For a README: a table for each data set, best metric first."""
    sections = []
    for name, numbers in summary['datasets'].items():
        columns = {
            key: title
            for key, title in MARKDOWN_COLUMNS.items()
            if any(value_of(row.get(key)) is not None for row in numbers['metrics'].values())
        }
        lines = [
            f'### {markdown_text(name)}',
            '',
            _line(['metric', 'group', *columns.values(), 'n', 'failed']),
            '|---' * (len(columns) + 4) + '|',
        ]
        for metric in ranked(numbers):
            row = numbers['metrics'][metric]
            cells = [_markdown_number(row.get(key), with_interval=key == 'srcc') for key in columns]
            lines.append(_line([markdown_text(metric), row.get('group') or '', *cells, row['n'], row['failures']]))
        lines += ['', f'{counted(numbers["n"], "image")}. Metrics that share a group letter do not differ significantly.']
        if summary.get('resamples'):
            lines[-1] += f' In brackets: 95 % bootstrap intervals ({summary["resamples"]:,} resamples, seed {summary["seed"]}).'
        sections.append('\n'.join([*lines, '']))
    return '\n'.join(sections)


def _markdown_number(estimate: object, *, with_interval: bool) -> str:
    text, ends = field_form(value_of(estimate)), interval_of(estimate)
    return f'{text} ({field_form(ends[0], 3)} to {field_form(ends[1], 3)})' if with_interval and ends else text


def _line(cells: Iterable) -> str:
    return f'| {" | ".join(map(str, cells))} |'


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no link, no end of a cell."""
    return re.sub(r'([\\`*\[\]|])', r'\\\1', html.escape(' '.join(text.split()), quote=False))


def file_name(text: str) -> str:
    """Lower-case letters, digits and underscores of a text, for names of files and columns."""
    return re.sub(r'[^a-z0-9.]+', '_', text.lower()).strip('_.') or 'unnamed'
