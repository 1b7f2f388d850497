"""CSV text that no spreadsheet runs: a cell that begins like a formula gets a quote in front, and loses it when it is read."""

import csv
import re
from collections.abc import Iterable, Sequence

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def csv_text(rows: Iterable[Sequence]) -> str:
    """Rows as the text of a CSV file with the line end ``\\n``; None is an empty cell.

    A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, and is no number, gets a ``'`` in front.
    """
    # CRLF line ends first: with another one, Python 3.12 and older leave a lone carriage return in a cell unquoted
    writer = csv.writer(_Line(), lineterminator='\r\n')
    return ''.join(writer.writerow([_neutral(cell) for cell in row]).removesuffix('\r\n') + '\n' for row in rows)


def as_written(cell: str) -> str:
    """The text of a cell before `csv_text` put a quote in front of it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) and not _is_number(cell[1:]) else cell


class _Line:
    """A file for `csv.writer`, whose `writerow` gives back what this gives."""

    def write(self, line: str) -> str:
        return line


def _neutral(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    """Whether it is a number, or several with a slash between, as pyiqa's tables of results have them."""
    try:
        for part in text.split('/'):
            float(part)
    except ValueError:
        return False
    return True
