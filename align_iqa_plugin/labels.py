"""Label tables: a CSV of images, scores and prompts, read into rows with all its faults, and written with splits added.

One reader serves a data set's folder as released, any CSV whose columns are named, and pyiqa's own form of a "meta
info" CSV (image name first, score second, by position). What is known of a release by its header stands in `RELEASES`.
"""

import csv
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class LabelError(ValueError):
    """A label table cannot be used; the message lists every fault, with the file and the row."""


@dataclass(frozen=True)
class Release:
    """What is known of a data set, so that nobody has to say it again."""

    name: str
    header: tuple[str, ...]
    image_column: str
    score_column: str
    score_ranges: Mapping[str, tuple[float, float]]  # of each score column: lowest and highest value, higher is better


RELEASES = (
    Release(
        name='AGIQA-3K',
        header=('name', 'prompt', 'adj1', 'adj2', 'style', 'mos_quality', 'std_quality', 'mos_align', 'std_align'),
        image_column='name',
        score_column='mos_quality',
        score_ranges={'mos_quality': (0.0, 5.0), 'mos_align': (0.0, 5.0)},
    ),
)


@dataclass(frozen=True)
class Row:
    """One image of a label table.

    Attributes:
        number: the row in a spreadsheet, where the header is row 1.
        path: the image file; it existed when the table was read.
        score: the score, NaN where the table holds a fault instead.
        prompt: the text as it stands in the file, '' where there is none.
        further_scores: the further scores, in the order of their columns; NaN where the cell is empty, or holds a fault.
        cells: every cell of the row, as text.
    """

    number: int
    path: str
    score: float
    prompt: str
    further_scores: tuple[float, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """A label table: its rows, and the faults that were found while reading it.

    Attributes:
        source: the CSV file.
        header: the names of its columns.
        image_column, score_column, prompt_column: the columns in use; `prompt_column` is None without prompts.
        score_range: lowest and highest score allowed, or None where the range is not known.
        rows: the rows whose image was found.
        faults: (row number, sentence) of each fault; a reader of more than labels adds its own before `refuse_faults`.
    """

    source: Path
    header: tuple[str, ...]
    image_column: str
    score_column: str
    prompt_column: str | None
    score_range: tuple[float, float] | None
    rows: list[Row]
    faults: list[tuple[int, str]]

    def column(self, name: str) -> list[str]:
        """The cells of one column, row by row."""
        position = self.header.index(name)
        return [row.cells[position] for row in self.rows]

    def refuse_faults(self) -> None:
        """Raise LabelError with every fault, in the order of the rows, if there is any."""
        if self.faults:
            count = '1 fault' if len(self.faults) == 1 else f'{len(self.faults)} faults'
            lines = [f'  row {number}: {fault}' for number, fault in sorted(self.faults)]
            raise LabelError('\n'.join([f'{self.source}: {count} (the header is row 1)', *lines]))


def read_labels(
    data: str | Path,
    *,
    images: str | Path | None = None,
    image_column: str | None = None,
    score_column: str | None = None,
    prompt_column: str | None = 'prompt',
    further_score_columns: Sequence[str] = (),
    score_range: tuple[float, float] | None = None,
) -> Labels:
    """Read a label table and look for every image, without opening it.

    Args:
        data: the CSV file (UTF-8), or a folder that holds it as `data.csv`.
        images: the folder of the images; by default the CSV's. Each image is looked for there, then in its `images/`.
        image_column: the column of file names; by default the release's, or else the first column.
        score_column: the column of scores; by default the release's, or else the second column.
        prompt_column: the column of prompts, None for a table without prompts.
        further_score_columns: columns of further scores, in which a cell may be empty.
        score_range: lowest and highest score allowed; by default the release's, or else any finite number is allowed.
            Further scores are held to the release's range where it is known.

    Returns:
        The table; faults of single rows are in its `faults`, not yet raised.

    Raises:
        LabelError: there is no table to read: no file, no such column, or no rows.
    """
    source = Path(data).expanduser()
    if source.is_dir():
        source = source / 'data.csv'
        if not source.is_file():
            raise LabelError(f'{source.parent} holds no data.csv: name the CSV of the labels itself.')
    records = _read_records(source)
    if not records:
        raise LabelError(f'{source} is empty: a header and at least one row are needed.')
    header = tuple(records[0])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise LabelError(f'{source} has more than one column {twice[0]!r}: give each column its own name.')

    release = next((release for release in RELEASES if set(release.header) <= set(header)), None)
    if release and header[: len(release.header)] == release.header:
        image_column = image_column or release.image_column
        score_column = score_column or release.score_column
    if len(header) < 2:
        raise LabelError(f'{source} has one column only ({header[0]!r}): image name and score are needed, with commas.')
    image_column = image_column or header[0]
    score_column = score_column or header[1]
    ranges = dict(release.score_ranges) if release else {}
    if score_range:
        ranges[score_column] = tuple(score_range)
    position = {
        name: _position(name, header, source)
        for name in [image_column, score_column, *further_score_columns, *([prompt_column] if prompt_column else [])]
    }

    folder = Path(images).expanduser() if images else source.parent
    rows, faults, seen, missing = [], [], {}, []
    for number, cells in enumerate(records[1:], start=2):
        if not cells:
            continue  # an empty line at the end or between rows; it still counts as a row in a spreadsheet
        if len(cells) != len(header):
            faults.append((number, f'{len(cells)} cells, but the header has {len(header)}.'))
            continue
        image = cells[position[image_column]]
        prompt = cells[position[prompt_column]] if prompt_column else ''
        scores = []
        for name in [score_column, *further_score_columns]:
            if name != score_column and not cells[position[name]].strip():
                scores.append(math.nan)
                continue
            score, fault = _score(cells[position[name]], name, ranges.get(name))
            scores.append(score)
            if fault:
                faults.append((number, f'{image}: {fault}'))
        first = seen.setdefault((image, prompt), number)
        if first != number:
            faults.append((number, f'{image}: the same image and prompt as in row {first}.'))
        # pyiqa's classes take the images' own folder, releases are known by the folder above it
        places = [folder / image, folder / 'images' / image]
        path = next((place for place in places if image and os.path.isfile(place)), None)
        if path is None:
            missing.append((number, f'{image or "no image name"}: there is no such file in {folder} or its images/.'))
            continue
        rows.append(Row(number, str(path), scores[0], prompt, tuple(scores[1:]), tuple(cells)))
    if not rows and not missing and not faults:
        raise LabelError(f'{source} has a header, but no rows.')
    if len(missing) > 20 and not rows:
        # a wrong folder or column is one fault, not thousands
        fault = f'none of the {len(missing)} images that the column {image_column!r} names, this one first, is in {folder} '
        missing = [(missing[0][0], fault + 'or its images/: name the right folder, or another column.')]
    return Labels(source, header, image_column, score_column, prompt_column, ranges.get(score_column), rows, faults + missing)


def write_labels(labels: Labels, further_columns: Mapping[str, Sequence[str]], output: str | Path) -> None:
    """Write a table in the form of pyiqa's meta info CSV; the same input gives the same bytes.

    First the image name and the score, by position, then the prompt, the source's other columns as they are, and the
    further columns. The file appears whole or not at all: it is written beside `output` and then renamed.

    Args:
        labels: the table.
        further_columns: name and cells of each column to add, one cell a row.
        output: the CSV to write; an older file of the name is replaced.

    Raises:
        LabelError: the table has a column of a further column's name already, `output` is the table's own file, or it
            cannot be written.
    """
    output = Path(output).expanduser()
    for name in further_columns:
        if name in labels.header:
            raise LabelError(f'{labels.source} has a column {name!r} already: remove it, or choose another name.')
    if output.resolve() == labels.source.resolve():
        raise LabelError(f'{output} is the table that is read: write to another file.')
    first = [labels.image_column, labels.score_column, *([labels.prompt_column] if labels.prompt_column else [])]
    header = [*first, *(name for name in labels.header if name not in first)]
    columns = [labels.column(name) for name in header] + list(further_columns.values())

    unfinished = output.with_name(f'.{output.name}.{os.getpid()}.unfinished')
    try:
        with open(unfinished, 'w', encoding='utf-8', newline='') as file:
            # CRLF line ends: with another one, Python 3.12 and older leave a lone carriage return in a cell unquoted
            writer = csv.writer(file, lineterminator='\r\n')
            writer.writerow([*header, *further_columns])
            writer.writerows(zip(*columns, strict=True))
        os.replace(unfinished, output)
    except OSError as error:
        raise LabelError(f'{output} cannot be written: {error.strerror}.') from error
    finally:
        unfinished.unlink(missing_ok=True)


def _read_records(source):
    try:
        # utf-8-sig: spreadsheets put a byte order mark first, which would become part of the first column's name
        with open(source, encoding='utf-8-sig', newline='') as file:
            reader = csv.reader(file, strict=True)
            try:
                return list(reader)
            except csv.Error as error:
                raise LabelError(f'{source}, line {reader.line_num}: not a sound CSV ({error}).') from error
    except OSError as error:
        raise LabelError(f'{source} cannot be read: {error.strerror}.') from error
    except UnicodeDecodeError as error:
        raise LabelError(f'{source} is not UTF-8 text: save it as "CSV UTF-8".') from error


def _position(name, header, source):
    if name not in header:
        close = difflib.get_close_matches(name, header, n=3)
        hint = f'did you mean {" or ".join(map(repr, close))}? It has' if close else 'it has'
        raise LabelError(f'{source} has no column {name!r}; {hint}: {", ".join(header)}.')
    return header.index(name)


def _score(cell, name, allowed):
    """(number, None), or (NaN, what is wrong with it)."""
    try:
        score = float(cell) if '_' not in cell else math.nan  # Python alone reads 1_000 as a number
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        return math.nan, f'{name} is {cell!r}, not a finite number.'
    if allowed and not allowed[0] <= score <= allowed[1]:
        return math.nan, f'{name} is {cell}, outside its range {allowed[0]:g} to {allowed[1]:g}.'
    return score, None
