"""The plots of a comparison for print: metrics in order of rank with their intervals, scores against MOS, behaviour."""

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from align_iqa_plugin.compare.report.leaderboard import field_form, interval_of, ranked, value_of
from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.runtime.counts import counted

BLUE, GREY = '#0b5cad', '#767d87'
MAX_VECTOR_POINTS = 20_000  # of more dots, an SVG file holds a picture


def ranking_figure(name: str, numbers: Mapping) -> Figure:
    """SRCC of every metric of a data set with its interval, best first."""
    estimates = {metric: numbers['metrics'][metric].get('srcc') for metric in ranked(numbers)}
    srcc = {metric: value for metric, estimate in estimates.items() if (value := value_of(estimate)) is not None}
    metrics = list(srcc)
    figure = Figure(figsize=(7, 1.3 + 0.28 * max(1, len(metrics))), layout='constrained')
    axes = figure.add_subplot()
    values = []
    for place, (metric, value) in enumerate(srcc.items()):
        row, ends = numbers['metrics'][metric], interval_of(estimates[metric])
        if ends:
            axes.plot(ends, (place, place), color=BLUE, linewidth=2, solid_capstyle='butt')
        axes.plot(value, place, 'o', color=BLUE, markersize=6)
        values.append(f'{field_form(value)}  {row.get("group") or ""}'.rstrip())
    axes.set_yticks(range(len(metrics)), metrics, parse_math=False)
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    right = axes.secondary_yaxis('right')
    right.set_yticks(range(len(metrics)), values, parse_math=False)
    right.tick_params(length=0)
    axes.set_xlabel('SRCC, 95 % interval; right: value and group')
    axes.set_title(f'{name}, {counted(numbers["n"], "image")}', parse_math=False)
    _clean(axes)
    right.spines['right'].set_visible(False)
    return figure


def scatter_figure(name: str, numbers: Mapping, scores: pd.DataFrame) -> Figure:
    """A grid of charts, one a metric, best first: every image's score against its MOS.

    Args:
        scores: the rows of the score table of this data set.
    """
    metrics = ranked(numbers)
    columns = min(5, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = Figure(figsize=(max(4.5, 2.4 * columns), 0.6 + 2.2 * lines), layout='constrained')
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True).flat
    for axes, metric in zip(grid, metrics, strict=False):
        rows, row = scores[scores['metric'] == metric], numbers['metrics'][metric]
        axes.scatter(
            rows['mos'], rows['score'], s=5, color=BLUE, alpha=0.45, linewidths=0, rasterized=len(scores) > MAX_VECTOR_POINTS
        )
        if row['lower_better']:
            axes.invert_yaxis()
        note = ' (turned over)' if row['lower_better'] else ''
        axes.set_title(f'{metric}{note}\nSRCC {field_form(value_of(row.get("srcc")))}', fontsize=9, parse_math=False)
        axes.tick_params(labelsize=7)
        _clean(axes)
    for axes in list(grid)[len(metrics) :]:
        axes.set_visible(False)
    figure.supxlabel('mean opinion score', fontsize=9)
    figure.supylabel('score', fontsize=9)
    figure.suptitle(name, fontsize=11, parse_math=False)
    return figure


def behaviour_figure(name: str, behaviour: Mapping) -> Figure:
    """A chart of each kind of degradation: the mean score of each metric at every level, in standard deviations.

    Args:
        behaviour: of this data set, in the summary.
    """
    metrics = behaviour['metrics']
    kinds = list(next(iter(metrics.values()))['levels'])
    figure = Figure(figsize=(2.3 * len(kinds), 3.1 + 0.2 * (len(metrics) // 5)), layout='constrained')
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        for place, (metric, row) in enumerate(metrics.items()):
            line = [math.nan if value is None else value for value in row['levels'][kind]]
            note = ' (turned over)' if row['lower_better'] else ''
            style = ('-', '--', ':')[place // 10 % 3]
            axes.plot(line, style, color=f'C{place % 10}', marker='o', markersize=3, linewidth=1.5, label=f'{metric}{note}')
        axes.set_title(kind, fontsize=9)
        axes.set_xticks(range(len(line)))
        axes.set_xlabel('level', fontsize=8)
        axes.tick_params(labelsize=7)
        _clean(axes)
    figure.supylabel('mean score, standard deviations', fontsize=9)
    figure.suptitle(f'{name}, {counted(behaviour["n"], "image")}', fontsize=11, parse_math=False)
    legend = figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=5, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as the ending of `path` says (png or svg); the same figure gives the same file."""
    form = path.suffix.removeprefix('.')
    with atomic_file(path) as part, matplotlib.rc_context({'svg.hashsalt': 'align-iqa'}):
        figure.savefig(part, format=form, dpi=150, metadata={'Date': None} if form == 'svg' else None)


def _clean(axes) -> None:
    axes.grid(color='#d3d7dd', linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(GREY)
