"""Writes scored rows to a CSV, JSON or Parquet file, and prints them."""

import json
import sys
from pathlib import Path

from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.csv_text import csv_text
from align_iqa_plugin.runtime.errors import printable
from align_iqa_plugin.score.rows import Row, further_columns, utf8

OUTPUT_ENDINGS = ('.csv', '.json', '.parquet')
TABLE_ROWS, TABLE_ERRORS = 40, 10  # more are printed only where no output takes them


def write_rows(file: Path, rows: list[Row], *, with_prompt: bool, with_mos: bool) -> str:
    """Write all rows to a .csv, .json or .parquet file, which appears whole or not at all; gives a sentence that says so.

    The further columns of image tables come before the score, as text; `std` follows it, and `kept` where a choice was made.

    Raises:
        OSError: it cannot be written.
    """
    further = further_columns(rows)
    choice = ['kept'] * any(row.kept is not None for row in rows)
    own = ['score', 'std', *choice, *['mos'] * with_mos, *['prompt'] * with_prompt, 'width', 'height', 'error']
    header = ['image', *further, *own]
    records: list[dict[str, str | float | None]] = [
        {
            'image': utf8(row.image),
            **{name: row.columns.get(name) for name in further},
            **{name: _valid(getattr(row, name)) for name in own},
        }
        for row in rows
    ]
    with atomic_file(file) as part:
        if file.suffix.lower() == '.parquet':
            import pyarrow
            from pyarrow import parquet

            kinds = dict.fromkeys(('score', 'std', 'mos'), pyarrow.float64()) | dict.fromkeys(
                ('width', 'height'), pyarrow.int64()
            )
            kinds |= {'kept': pyarrow.bool_()} | {name: pyarrow.string() for name in further}
            schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in header])
            with part.open('wb') as opened:  # pyarrow opens no path that is not UTF-8
                parquet.write_table(pyarrow.Table.from_pylist(records, schema), opened)
        elif file.suffix.lower() == '.json':
            text = json.dumps(records, allow_nan=False, ensure_ascii=False, indent=1)
            part.write_text(text + '\n', encoding='utf-8')
        else:
            part.write_text(csv_text([header, *map(list, map(dict.values, records))]), encoding='utf-8', newline='')
    return f'{counted(len(rows), "row")} written to {file}.'


def print_rows(rows: list[Row], output: Path | None, kept: list[Row] | None = None) -> None:
    """Print the rows to stdout; if `output` has them and they are many, only errors, to stderr.

    Args:
        rows: all.
        output: the file or folder that has them.
        kept: of a choice: they are printed in place of all rows, and the errors of the others to stderr.
    """
    shown = rows if kept is None else kept
    is_shown = output is None or len(shown) <= TABLE_ROWS
    if is_shown and shown:
        print_table(shown)
    if is_shown and kept is None:
        return
    failed = [row for row in rows if row.error]
    most = len(failed) if output is None else TABLE_ERRORS
    for row in failed[:most]:
        print(f'{printable(row.image)}: {printable(row.error)}', file=sys.stderr)
    if len(failed) > most:
        print(f'... and {counted(len(failed) - most, "more image")} with an error, see {output}.', file=sys.stderr)


def print_table(rows: list[Row]) -> None:
    """Print the rows as a table to stdout, in full: nothing is cut off where no terminal limits the width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = {
        'image': lambda row: printable(row.image),
        'score': lambda row: '' if row.score is None else f'{row.score:.4f}',
        'std': lambda row: '' if row.std is None else f'{row.std:.4f}',
        'mos': lambda row: '' if row.mos is None else f'{row.mos:.4f}',
        'prompt': lambda row: printable(row.prompt or ''),
        'size': lambda row: '' if row.width is None else f'{row.width} x {row.height}',
        'error': lambda row: printable(row.error),
    }
    table = Table()
    shown = {name: cell for name, cell in columns.items() if name in ('image', 'score') or any(map(cell, rows))}
    for name in shown:
        numeric = name in ('score', 'std', 'mos', 'size')
        table.add_column(name, overflow='fold', justify='right' if numeric else 'left', no_wrap=numeric)
    for row in rows:
        # Text: file names and prompts may hold what rich takes for markup
        table.add_row(*(Text(cell(row), style='red' if name == 'error' else '') for name, cell in shown.items()))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def correlation_with_mos(rows: list[Row]) -> str:
    """A sentence with the rank correlation between score and MOS."""
    import numpy as np

    from align_iqa_plugin.evaluation.correlation import srcc

    pairs = [(row.score, row.mos) for row in rows if row.score is not None]
    if len({score for score, _ in pairs}) < 2:
        return 'Rank correlation (SRCC) between score and MOS: not defined without two different scores.'
    scores, mos = (np.array(values) for values in zip(*pairs, strict=True))
    return (
        f'Rank correlation (SRCC) between score and MOS: {float(srcc(scores, mos)[0]):.3f} over {counted(len(pairs), "image")}.'
    )


def _valid(value: str | float | None) -> str | float | None:
    return utf8(value) if isinstance(value, str) else value
