"""Label tables: images, scores and prompts, read into rows with all their problems, and written with splits added.

One reader serves a data set's folder as released, any table whose columns are named, and pyiqa's "meta info" CSV (image name
first, score second, by position).
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align_iqa_plugin.data.release_tables import columns_in_names, read_release_table
from align_iqa_plugin.data.releases import Release
from align_iqa_plugin.data.tables import Table, TableError, find_file, list_problems
from align_iqa_plugin.data.uris import is_uri
from align_iqa_plugin.runtime.atomic import atomic_write
from align_iqa_plugin.runtime.csv_text import csv_text
from align_iqa_plugin.runtime.files import expand_home
from align_iqa_plugin.runtime.names import suggest

WRONG_FOLDER = 20  # more missing images than this, and none found: one problem, that of the folder


class LabelError(ValueError):
    """A label table cannot be used; the message lists every problem, with the file and the row."""


@dataclass(frozen=True)
class Row:
    """One image of a label table.

    Attributes:
        number: the row in a spreadsheet, where the header is row 1; a `FurtherRow` in the second table of a release.
        path: the image file, which existed when the table was read, or a URI.
        score: the score, NaN where the cell is a problem.
        prompt: the text as it stands in the file, '' where there is none.
        further_scores: the further scores, in the order of their columns; NaN where the cell is empty, or a problem.
        cells: every cell of the row, as text; in a release, an image's name is spelt as its file's.
    """

    number: int
    path: str
    score: float
    prompt: str
    further_scores: tuple[float, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """A label table: its rows, and the problems that were found while reading it.

    Attributes:
        source: the file of the table.
        release: the release that it belongs to, None if it is none of those known.
        header: the names of its columns, with `prompt_id` and `generator` where the release has them in its file names; the
            column of generators is called `generator`, whatever it was called.
        image_column, score_column, prompt_column: the columns in use; `prompt_column` is None without prompts.
        score_range: lowest and highest score allowed, None where the range is not known.
        rows: the rows whose image was found.
        problems: (row number, sentence) of each problem; further checks add theirs before `raise_problems`.
        missing: those of the problems that are missing images.
        rows_without_image: the rows of these; their `path` is ''.
    """

    source: Path
    release: Release | None
    header: tuple[str, ...]
    image_column: str
    score_column: str
    prompt_column: str | None
    score_range: tuple[float, float] | None
    rows: list[Row]
    problems: list[tuple[int, str]]
    missing: tuple[tuple[int, str], ...]
    rows_without_image: tuple[Row, ...]

    def column(self, name: str) -> list[str]:
        """The cells of one column, row by row."""
        position = self.header.index(name)
        return [row.cells[position] for row in self.rows]

    @property
    def generators(self) -> list[str]:
        """The generator of each row, '' where it is not known."""
        return self.column('generator') if 'generator' in self.header else [''] * len(self.rows)

    def raise_problems(self) -> None:
        """Raise LabelError with every problem, in the order of the rows, if there is any."""
        if self.problems:
            raise LabelError(list_problems(self.source, self.problems))


def read_labels(
    data: str | Path,
    *,
    release: str | None = None,
    images: str | Path | None = None,
    image_column: str | None = None,
    score_column: str | None = None,
    prompt_column: str | None = 'prompt',
    generator_column: str | None = None,
    further_score_columns: Sequence[str] = (),
    score_range: tuple[float, float] | None = None,
    uris: bool = False,
) -> Labels:
    """Read a label table and look for every image, without opening it.

    Args:
        data: the table (.csv, .xlsx, .parquet), or the folder of a release, or one that holds a `data.csv`.
        release: the name of the release (see `releases.py`); by default it is recognized by its files and columns.
        images: the folder of the images; by default the table's. Each image is looked for there, then in its `images/`,
            then in the release's folder for images.
        image_column: the column of file names; by default the release's, or else the first column.
        score_column: the column of scores; by default the release's first, or else the second column.
        prompt_column: the column of prompts, None for a table without prompts. That of a release is called `prompt`, and a
            release without prompts needs no None.
        generator_column: the column of generators, if it is not called `generator`.
        further_score_columns: columns of further scores, in which a cell may be empty.
        score_range: lowest and highest score allowed; by default the release's, or else any finite number is allowed.
            Further scores must be in the release's range where it is known.
        uris: whether an image may be a URI; it is not looked for here.

    Returns:
        The table; problems of single rows are in its `problems`, not yet raised.

    Raises:
        LabelError: there is no table to read: no file, no such column, or no rows; or it is not of this release.
    """
    try:
        table, known = read_release_table(expand_home(data), release)
        _check_header(table)
        image_column, score_column, prompt_column = _columns(table, known, image_column, score_column, prompt_column)
        in_use = [image_column, score_column, prompt_column, *further_score_columns]
        _check_columns(table, [*in_use, generator_column], prompt_column)
        ranges = {name: bounds for name, bounds in known.score_ranges.items() if bounds} if known else {}
        if score_range:
            ranges[score_column] = (score_range[0], score_range[1])
        names = table.column(image_column)
        scores = [(name, table.column(name)) for name in [score_column, *further_score_columns]]
        prompts = table.column(prompt_column) if prompt_column else [''] * len(names)
        header = _with_generator(table, generator_column, in_use)
    except TableError as error:
        raise LabelError(str(error)) from error
    source = Path(table.source)
    folders = _image_folders(expand_home(images) if images else source.parent, known)
    if known:
        names = _spelt_as_files(names, folders)
    added = columns_in_names(known, header, [name.replace('\\', '/') for name in names])
    image_position = table.position(image_column)
    rows, problems, missing, rows_without_image = [], list(table.problems), [], []
    seen: dict[tuple[str, str], int] = {}  # the first row of an image and prompt
    for position, (number, cells) in enumerate(table.rows):
        image, prompt = names[position], prompts[position]
        numbers = []
        for name, column in scores:
            optional = name != score_column
            score, problem = _score(column[position], name, ranges.get(name), optional=optional)
            numbers.append(score)
            if problem:
                problems.append((number, f'{image}: {problem}'))
        first = seen.setdefault((image, prompt if prompt.strip() else ''), number)
        if first != number:
            problems.append((number, f'{image}: the same image and prompt as in row {first}.'))
        path = image if uris and is_uri(image) else _find_image(image, folders)
        further = (column[position] for column in added.values())
        own = (*cells[:image_position], image, *cells[image_position + 1 :])
        row = Row(number, path, numbers[0], prompt, tuple(numbers[1:]), (*own, *further))
        if path:
            rows.append(row)
        else:
            missing.append((number, f'{image or "no image name"}: there is no such file in {_in_words(folders)}.'))
            rows_without_image.append(row)
    if not rows and not missing and not problems:
        raise LabelError(f"'{source}' has a header, but no rows.")
    if len(missing) > WRONG_FOLDER and not rows:
        problem = (
            f'none of the {len(missing)} images in the column {image_column!r}, this one first, is in {_in_words(folders)}'
        )
        missing = [(missing[0][0], problem + ': name the right folder, or another column.')]
    return Labels(
        source=source,
        release=known,
        header=(*header, *added),
        image_column=image_column,
        score_column=score_column,
        prompt_column=prompt_column,
        score_range=ranges.get(score_column),
        rows=rows,
        problems=problems + missing,
        missing=tuple(missing),
        rows_without_image=tuple(rows_without_image),
    )


def write_labels(labels: Labels, further_columns: Mapping[str, Sequence[str]], output: str | Path) -> None:
    """Write a table in the form of pyiqa's meta info CSV; the same input gives the same bytes.

    First the image name and the score, by position, then prompt, `prompt_id`, `generator` and a release's further scores
    where there are any, the source's other columns as they are, and the further columns.

    Args:
        labels: the table.
        further_columns: name and cells of each column to add, one cell a row.
        output: the CSV to write; an older file of the name is replaced.

    Raises:
        LabelError: the table has a column of a further column's name already, `output` is the table's own file, or it
            cannot be written.
    """
    output = expand_home(output)
    for name in further_columns:
        if name in labels.header:
            raise LabelError(f"'{labels.source}' has a column {name!r} already: remove it, or choose another name.")
    tables = [labels.source, *(labels.source.parent / table for table in (labels.release.tables if labels.release else ()))]
    if output.resolve() in [table.resolve() for table in tables]:
        raise LabelError(f"'{output}' is the table that is read: write to another file.")
    first = [labels.image_column, labels.score_column, labels.prompt_column, 'prompt_id', 'generator']
    first += labels.release.score_ranges if labels.release else []
    header = list(dict.fromkeys([*(name for name in first if name in labels.header), *labels.header]))
    columns = [labels.column(name) for name in header] + list(further_columns.values())
    try:
        text = csv_text([[*header, *further_columns], *zip(*columns, strict=True)])
        atomic_write(output, text.encode())
    except OSError as error:
        raise LabelError(f'{error.strerror}.') from error


def _check_header(table: Table) -> None:
    header = table.header
    if len(header) < 2:
        raise TableError(
            f"'{table.source}' has one column only ({', '.join(header)}): image and score are needed, with a comma between."
        )
    for name in header:
        table.position(name)  # raises where there are two of them


def _check_columns(table: Table, names: Sequence[str | None], prompt_column: str | None) -> None:
    for name in names:
        if name is not None and name not in table.header:
            none = " Without prompts: --prompt-column '', or prompt_column: ~ in an option file." * (name == prompt_column)
            raise TableError(f"'{table.source}' has no column {name!r}{suggest(name, table.header)}{none}")


def _columns(
    table: Table, release: Release | None, image: str | None, score: str | None, prompt: str | None
) -> tuple[str, str, str | None]:
    """The columns of images, scores and prompts: as given, or else the release's, or else by position."""
    header = table.header
    if release:
        # a meta info CSV made from the release has the chosen score second: there, positions go before names
        if not (header[0] == release.image_column and header[1] in release.score_ranges):
            image = image or release.image_column
            score = score or next(iter(release.score_ranges))
        if release.prompt_column is None and prompt == 'prompt':
            prompt = None
    return image or header[0], score or header[1], prompt


def _with_generator(table: Table, column: str | None, in_use: Sequence[str | None]) -> tuple[str, ...]:
    """The header, in which the column of generators is called `generator`."""
    if column is None:
        return table.header
    position = table.position(column)
    if column in in_use:
        raise TableError(f"'{table.source}': the column {column!r} holds the images, scores or prompts, not the generators.")
    if column != 'generator' and 'generator' in table.header:
        raise TableError(f"'{table.source}' has a column 'generator' beside {column!r}: rename one of them.")
    return (*table.header[:position], 'generator', *table.header[position + 1 :])


def _image_folders(folder: Path, release: Release | None) -> list[Path]:
    """Where images are looked for: pyiqa's classes take their own folder, releases are known by the folder above it."""
    return list(dict.fromkeys([folder, folder / 'images', *([folder / release.image_folder] if release else [])]))


def _find_image(image: str, folders: Sequence[Path]) -> str:
    """The path of an image, '' if it is in none of the folders."""
    return next(filter(None, (find_file(folder, image) for folder in folders)), '')


def _spelt_as_files(images: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The names of images; one that differs from a single file's in the case of its letters alone becomes the file's."""
    missing = {image for image in images if not _find_image(image, folders)}
    if not missing:
        return list(images)
    spellings: dict[str, set[str]] = {}
    for folder in folders:
        for name in os.listdir(folder) if folder.is_dir() else ():
            spellings.setdefault(name.casefold(), set()).add(name)
    found = {image: spellings.get(image.casefold(), set()) for image in missing}
    renamed = {image: name for image, names in found.items() if len(names) == 1 for name in names}
    return [renamed.get(image, image) for image in images]


def _in_words(folders: Sequence[Path]) -> str:
    return ' or '.join([str(folders[0]), *(f'its {each.relative_to(folders[0])}/' for each in folders[1:])])


def _score(cell: str, name: str, allowed: tuple[float, float] | None, *, optional: bool) -> tuple[float, str]:
    """The number in a cell and '', or NaN and the problem."""
    if optional and not cell.strip():
        return math.nan, ''
    try:
        score = float(cell) if '_' not in cell else math.nan  # Python alone reads 1_000 as a number
    except ValueError:
        score = math.nan
    if re.fullmatch(r'\s*[+-]?\d+,\d+\s*', cell):
        return math.nan, f'{name} is {cell!r}, with a comma: write {cell.strip().replace(",", ".")}.'
    if not math.isfinite(score):
        return math.nan, f'{name} is {cell!r}, not a finite number.'
    if allowed and not allowed[0] <= score <= allowed[1]:
        return math.nan, f'{name} is {cell}, outside its range {allowed[0]:g} to {allowed[1]:g}.'
    return score, ''
