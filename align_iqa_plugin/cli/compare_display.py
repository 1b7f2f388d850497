"""What `align-iqa compare` shows in a terminal: its progress, a leaderboard of each data set, the behaviour of metrics."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from align_iqa_plugin.cli.errors import say
from align_iqa_plugin.register import CONFIGS
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.errors import printable

if TYPE_CHECKING:
    import pandas

    from align_iqa_plugin.compare.run import Show
    from align_iqa_plugin.compare.store import LabelledImage


@contextmanager
def show_progress(total: int) -> 'Iterator[Show]':
    """Gives a `compare.run.Show` for this number of metrics, which shows something on a terminal only."""
    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        overall, current = progress.add_task('metrics', total=total), progress.add_task('', total=None)

        def show(metric: str, what: str = '', images: int | None = None, *, done: bool = False):
            if done:
                progress.advance(overall)
            progress.reset(current, description=escape(f'{metric} {what}'), total=images)
            return lambda count: progress.advance(current, count)

        yield show


def show_leaderboard(summary: Mapping, costs: 'pandas.DataFrame', images: 'Mapping[str, Sequence[LabelledImage]]') -> None:
    """Print a table of the metrics of each data set, best first, and whether this package's own was fitted to its images.

    Args:
        summary: of `compare.statistics.summarise`.
        costs: the metric table of a store.
        images: of each data set.
    """
    from align_iqa_plugin.data.training_images import fitted_to

    seconds = dict(zip(costs['metric'], costs['seconds'], strict=True))
    for name, dataset in summary['datasets'].items():
        table = Table(
            box=box.SIMPLE, title=Text(f'{printable(name)}: correlation with the MOS of {counted(dataset["n"], "image")}')
        )
        for column in ('metric', 'SRCC', '95 % interval', 'PLCC', 'images', 'failed', 'time/image'):
            table.add_column(column, justify='left' if column == 'metric' else 'right', no_wrap=True)
        for metric, numbers in sorted(dataset['metrics'].items(), key=lambda item: item[1]['rank']):
            srcc = numbers['srcc']
            table.add_row(
                Text(printable(metric)),
                _number(srcc['value']),
                f'{_number(srcc["low"])} to {_number(srcc["high"])}',
                _number(numbers['plcc']['value']),
                str(numbers['n']),
                str(numbers['failures']),
                '' if seconds[metric] != seconds[metric] else f'{seconds[metric] * 1000:.1f} ms',
            )
        Console(width=None if sys.stdout.isatty() else 200).print(table)
        fitted = [metric for metric in CONFIGS if metric in dataset['metrics']]
        seen = fitted_to(image.sha256 for image in images[name]) if fitted else 0
        if seen:
            say(
                f'NOTE: {" and ".join(fitted)} {"was" if len(fitted) == 1 else "were"} fitted to {seen:,} of the images of '
                f'{printable(name)}, so the numbers are too high. Test images of AGIQA-3K: --split 1 --phase test.'
            )


def show_behaviour(summary: Mapping) -> None:
    """Print how the metrics behave on the copies of each data set that has some, and the copies that have no score.

    Args:
        summary: of `compare.run.write_results`.
    """
    from align_iqa_plugin.compare.report.behaviour import behaviour_view

    console = Console(width=None if sys.stdout.isatty() else 200)
    for name, dataset in summary['datasets'].items():
        if 'behaviour' not in dataset:
            continue
        view = behaviour_view(dataset['behaviour'])
        number = counted(view['images'], 'image')
        title = f'{name}: how often the score of {number} falls at every level; images that score worse than ...'
        table = Table(box=box.SIMPLE, title=Text(printable(title)))
        _add_columns(table, ['all', '95 % interval', *view['kinds'], *view['pictures'], 'failed'])
        for row in view['rows']:
            table.add_row(Text(row['metric']), row['all'], row['interval'], *row['kinds'], *row['pictures'], str(row['failed']))
        console.print(table)
        title = f'{name}: mean change of the score (mean absolute change), + is better'
        table = Table(box=box.SIMPLE, title=Text(printable(title)))
        _add_columns(table, ['in', *view['changes']])
        for row in view['change_rows']:
            table.add_row(Text(row['metric']), row['unit'], *row['cells'])
        console.print(table)
        for row in view['failures']:
            pictures = row['example'] if row['count'] == 1 else f'{row["count"]} pictures, such as {row["example"]}'
            sentence = f'{row["metric"]}: no score for {pictures}: {row["reason"]}'
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)  # names and reasons may hold brackets


def _add_columns(table: Table, columns: Sequence[str]) -> None:
    table.add_column('metric', no_wrap=True)
    for column in columns:
        table.add_column(column, justify='right')


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
