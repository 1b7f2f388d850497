"""What `align-iqa compare` shows in a terminal: its progress, and a leaderboard of each data set."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas

    from align_iqa_plugin.compare.run import Show


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
            progress.reset(current, description=f'{metric} {what}', total=images)
            return lambda count: progress.advance(current, count)

        yield show


def show_leaderboard(summary: Mapping, costs: 'pandas.DataFrame') -> None:
    """Print a table of the metrics of each data set, best first.

    Args:
        summary: of `compare.statistics.summarise`.
        costs: the metric table of a store.
    """
    seconds = dict(zip(costs['metric'], costs['seconds'], strict=True))
    for name, dataset in summary['datasets'].items():
        table = Table(box=box.SIMPLE, title=f'{name}: correlation with the MOS of {dataset["n"]} images')
        for column in ('metric', 'SRCC', '95 % interval', 'PLCC', 'images', 'failed', 'time/image'):
            table.add_column(column, justify='left' if column == 'metric' else 'right', no_wrap=True)
        for metric, numbers in sorted(dataset['metrics'].items(), key=lambda item: item[1]['rank']):
            srcc = numbers['srcc']
            table.add_row(
                metric,
                _number(srcc['value']),
                f'{_number(srcc["low"])} to {_number(srcc["high"])}',
                _number(numbers['plcc']['value']),
                str(numbers['n']),
                str(numbers['failures']),
                '' if seconds[metric] != seconds[metric] else f'{seconds[metric] * 1000:.1f} ms',
            )
        Console(width=None if sys.stdout.isatty() else 200).print(table)


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
