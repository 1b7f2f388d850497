"""One reader for every table that users bring: CSV (Unicode), Excel (.xlsx) and Parquet, from a path or a URI.

Every cell is read as text, so that a prompt `None` and an image `001` stay what they are. A table that would fill the memory,
whatever its file's size, is an error and not read.
"""

import codecs
import csv
import io
import os
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from align_iqa_plugin.data.uris import MAX_BYTES, is_uri, read_uri
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.csv_text import as_written
from align_iqa_plugin.runtime.errors import printable
from align_iqa_plugin.runtime.files import read_bytes

ENDINGS = ('.csv', '.xlsx', '.parquet')

SHOWN = 30  # columns that an error lists, at most

SEPARATORS = ',;\t'  # of a CSV: the one that gives its header the most cells, where two do so the first

# MAX_BYTES holds for the file, and for what it unpacks to: 256 bytes for each row that Excel can hold
MAX_ROWS = 2**20  # as many as Excel can hold
MAX_COLUMNS = 1000
MAX_CELLS = 2 * 10**7  # about 2 GB as text in Python


class TableError(ValueError):
    """A table cannot be used; the message names it, and the rows that are the problem."""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        source: its path or URI.
        header: the names of its columns. One without name and cells is left out: spreadsheets write them at the end of a row.
        rows: (row number, cells) of each row that fits the header. The header is row 1, as in a spreadsheet, and empty rows
            are counted, but left out.
        problems: (row number, sentence) of each row that does not fit the header.
        unread: the columns of a Parquet file that hold binary or nested values, such as pictures: their cells are '' here.
    """

    source: str
    header: tuple[str, ...]
    rows: list[tuple[int, list[str]]]
    problems: list[tuple[int, str]]
    unread: frozenset[str] = frozenset()

    def column(self, *names: str) -> list[str]:
        """The cells, row by row, of the first of these columns that the table has.

        Raises:
            TableError: it has none of them, more than one of that name, or one that was not read.
        """
        position = self.position(*names)
        return [cells[position] for _, cells in self.rows]

    def position(self, *names: str) -> int:
        """The position in each row of the first of these columns that the table has; raises as `column` does."""
        name = next((name for name in names if name in self.header), None)
        if name is None:
            wanted = ' or '.join(map(repr, names))
            there = ', '.join(map(repr, self.header[:SHOWN])) + ' ...' * (len(self.header) > SHOWN)
            raise TableError(f"'{self.source}' has no column {wanted}: rename the one that holds this; there are {there}.")
        if self.header.count(name) > 1:
            raise TableError(f"'{self.source}' has more than one column {name!r}: give each column its own name.")
        if name in self.unread:
            raise TableError(f"'{self.source}': the column {name!r} holds binary or nested values; text is needed there.")
        return self.header.index(name)

    def raise_problems(self) -> None:
        """Raise TableError with every problem, if there is any."""
        if self.problems:
            raise TableError(list_problems(self.source, self.problems))


class FurtherRow(int):
    """The number of a row in a table that was put below another one: it counts on, but its text names row and table."""

    text: str

    def __str__(self) -> str:
        return self.text


def put_below(first: Table, second: Table) -> Table:
    """One table with the rows of both, and the columns that both have; the numbers of the second's are `FurtherRow`."""
    last = max((number for number, _ in [*first.rows, *first.problems]), default=1)

    def counted_on(number: int) -> FurtherRow:
        further = FurtherRow(last + number)
        further.text = f"{number} of '{Path(second.source).name}'"
        return further

    header = tuple(name for name in first.header if name in second.header)

    def rows_of(table: Table) -> list[list[str]]:
        places = [table.position(name) for name in header]
        return [[cells[place] for place in places] for _, cells in table.rows]

    numbers = [*(number for number, _ in first.rows), *(counted_on(number) for number, _ in second.rows)]
    return Table(
        source=first.source,
        header=header,
        rows=list(zip(numbers, [*rows_of(first), *rows_of(second)], strict=True)),
        problems=[*first.problems, *((counted_on(number), problem) for number, problem in second.problems)],
    )


def list_problems(source: str | Path, problems: Iterable[tuple[int, str]]) -> str:
    """A message with all problems of a table's rows, (row number, sentence) each, in the order of the rows, a line each."""
    problems = sorted(problems)
    count = counted(len(problems), 'problem')
    return '\n'.join(
        [
            f"'{source}': {count} (the header is row 1)",
            *(f'  row {row}: {printable(problem)}' for row, problem in problems),
        ]
    )


def read_table(source: str | Path) -> Table:
    """Read a table; files that end in .xlsx and .parquet are read as such, all others as CSV.

    A CSV is in UTF-8, or in the UTF-16 that its first bytes state; commas, semicolons or tabs separate its cells; a quote that
    keeps a spreadsheet from running a cell is no part of it. The numbers of the rows that pandas puts in front are left out.

    Args:
        source: path or URI.

    Raises:
        TableError: there is no such file, it is damaged, has no header, or would take too much memory.
    """
    content = _content(source)
    ending = str(source).lower()
    unread: frozenset[str] = frozenset()
    try:
        if ending.endswith('.xlsx'):
            rows = _of_one_width(_bounded(_read_excel(content)))
        elif ending.endswith('.parquet'):
            cells, unread = _read_parquet(content)
            rows = _bounded(cells)
        else:
            rows = _bounded(_read_csv(content))
        if not rows:
            raise _Problem('is empty: a header is needed')
        if rows[0][0] > 1:
            raise _Problem('has an empty first row: the names of the columns are needed there')
    except _Problem as problem:
        raise TableError(f"'{source}' {problem}.") from problem
    (_, header), *rows = _without_index(rows)
    hint = f'but the header has {len(header)}: put a cell that holds a separator in quotes.'
    fitting = [row for row in rows if len(row[1]) == len(header)]
    filled = [place for place, name in enumerate(header) if name or any(cells[place] for _, cells in fitting)]
    return Table(
        source=str(source),
        header=tuple(header[place] for place in filled),
        rows=[(number, [cells[place] for place in filled]) for number, cells in fitting],
        problems=[(number, f'{counted(len(cells), "cell")}, {hint}') for number, cells in rows if len(cells) != len(header)],
        unread=unread,
    )


def find_file(folder: str | Path, name: str) -> str | None:
    """The path of the file that a table names, relative to the folder; None if there is none.

    A name of Windows may have ``\\`` for ``/``, and a name of macOS takes letters with accents apart (NFD).
    """
    slashes = name.replace('\\', '/')
    for spelling in dict.fromkeys((name, slashes, *(unicodedata.normalize(form, slashes) for form in ('NFC', 'NFD')))):
        path = Path(folder) / spelling
        if spelling and os.path.isfile(path):
            return str(path)
    return None


class _Problem(Exception):
    """Why a table cannot be read: the end of a sentence that begins with its name."""


def _content(source: str | Path) -> bytes:
    try:
        return read_uri(source) if is_uri(source) else read_bytes(source, most=MAX_BYTES)
    except OSError as error:
        raise TableError(f"'{source}' cannot be read: {error.strerror or error}.") from error


def _bounded(rows: Iterator[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, as long as they fit into the memory."""
    kept, count = [], 0
    for number, cells in rows:
        count += len(cells)
        if len(cells) > MAX_COLUMNS:
            raise _Problem(f'has {counted(len(cells), "cell")} in row {number:,}, more than the {MAX_COLUMNS:,} that are read')
        if number > MAX_ROWS or count > MAX_CELLS:
            raise _Problem(f'has more than {MAX_ROWS:,} rows or {MAX_CELLS:,} cells: split it')
        if cells:
            kept.append((number, cells))
    return kept


def _of_one_width(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The rows, filled up to the longest: Excel does not store the empty cells at the end of a row."""
    width = max((len(cells) for _, cells in rows), default=0)
    if width * len(rows) > MAX_CELLS:
        raise _Problem(f'has more than {MAX_CELLS:,} cells: split it')
    return [(number, cells + [''] * (width - len(cells))) for number, cells in rows]


def _without_index(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The rows without the first column if pandas wrote it: it has no name, and each cell is another whole number."""
    column = [cells[0] for _, cells in rows]
    numbers = column[1:]
    if column[0] or not numbers or len(set(numbers)) < len(numbers) or not all(cell.isdecimal() for cell in numbers):
        return rows
    return [(number, cells[1:]) for number, cells in rows]


def _read_csv(content: bytes) -> Iterator[tuple[int, list[str]]]:
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        # utf-8-sig: spreadsheets put a byte order mark first, which would become part of the first column's name
        text = content.decode('utf-16' if utf16 else 'utf-8-sig')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise _Problem(f'is not a CSV in UTF-8 (line {line}): save it as "CSV UTF-8"') from error
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=_separator(text), strict=True)
    try:
        for number, cells in enumerate(reader, 1):
            yield number, list(map(as_written, cells))
    except csv.Error as error:
        raise _Problem(f'is not a sound CSV ({error} in line {reader.line_num})') from error


def _separator(text: str) -> str:
    begin = text[:100_000]

    def cells(separator: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(begin, newline=''), delimiter=separator), ()))
        except csv.Error:  # reading the table reports it
            return 0

    return max(SEPARATORS, key=cells)


def _read_excel(content: bytes) -> Iterator[tuple[int, list[str]]]:
    import openpyxl

    try:
        unpacked = sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(content)).infolist())
        if unpacked > MAX_BYTES:
            raise _Problem(f'unpacks to more than {MAX_BYTES / 2**20:.0f} MiB: split it')
        sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets[0]
        sheet.reset_dimensions()  # what a file states of its size may be wrong, and rows would be filled up to it
        for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
            cells = [_excel_text(value) for value in values]
            while cells and not cells[-1]:
                cells.pop()
            yield number, cells
    except _Problem:
        raise
    # the decoders let through whatever zipfile, zlib, the XML parser or a look-up raises at damaged bytes
    except Exception as error:
        raise _Problem(f'is not a sound .xlsx file ({" ".join(str(error).split())})') from error


def _excel_text(value: object) -> str:
    if value is None:
        return ''
    # Excel has one kind of number
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _read_parquet(content: bytes) -> tuple[Iterator[tuple[int, list[str]]], frozenset[str]]:
    """The rows, and the columns that were not read."""
    import pyarrow
    from pyarrow import parquet, types

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        schema, rows = file.schema_arrow, file.metadata.num_rows
        if rows > MAX_ROWS or rows * len(schema) > MAX_CELLS:
            raise _Problem(f'has {rows:,} rows of {len(schema):,} cells, more than the {MAX_CELLS:,} cells that are read')
        unread = frozenset(each.name for each in schema if types.is_nested(each.type) or 'binary' in str(each.type))
        table = file.read([name for name in schema.names if name not in unread])
    except (OSError, pyarrow.ArrowException) as error:
        raise _Problem(f'is not a sound Parquet file ({" ".join(str(error).split())})') from error
    columns = iter(table.columns)  # in the order of the schema, where a name may stand twice
    texts = []
    for name in schema.names:
        cells = [None] * rows if name in unread else next(columns).to_pylist()
        texts.append(['' if cell is None else str(cell) for cell in cells])
    return enumerate([list(schema.names), *map(list, zip(*texts, strict=True))], 1), unread
