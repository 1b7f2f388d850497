"""Label tables: images, scores and prompts, read into rows with all their problems, and written with splits added.

One reader serves a data set's folder as released, any CSV, Excel or Parquet table whose columns are named, and pyiqa's
own form of a "meta info" CSV (image name first, score second, by position). What is known of a release stands in
`releases.py`. Every cell is read as text: a prompt `None` and an image `001` stay what they are.
"""

import csv
import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align_iqa_plugin.data.releases import RELEASES, Release, find_release
from align_iqa_plugin.data.uris import is_uri


class LabelError(ValueError):
    """A label table cannot be used; the message lists every problem, with the file and the row."""


@dataclass(frozen=True)
class Row:
    """One image of a label table.

    Attributes:
        number: the row in a spreadsheet, where the header is row 1.
        path: the image file; it existed when the table was read.
        score: the score, NaN where the table holds a problem instead.
        prompt: the text as it stands in the file, '' where there is none.
        further_scores: the further scores, in the order of their columns; NaN where the cell is empty, or holds a problem.
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
    """A label table: its rows, and the problems that were found while reading it.

    Attributes:
        source: the file of the table.
        release: the release that it belongs to, None if it is none of those known.
        header: the names of its columns; with `prompt_id` and `generator` where a release tells them otherwise.
        image_column, score_column, prompt_column: the columns in use; `prompt_column` is None without prompts.
        score_range: lowest and highest score allowed, or None where the range is not known.
        rows: the rows whose image was found.
        problems: (row number, sentence) of each problem; a reader of more than labels adds its own before `raise_problems`.
        missing: those of the problems that are about a missing image.
        rows_without_image: the rows that these are about; their `path` is ''.
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

    def raise_problems(self) -> None:
        """Raise LabelError with every problem, in the order of the rows, if there is any."""
        if self.problems:
            count = '1 problem' if len(self.problems) == 1 else f'{len(self.problems)} problems'
            lines = [f'  row {number}: {problem}' for number, problem in sorted(self.problems)]
            raise LabelError('\n'.join([f'{self.source}: {count} (the header is row 1)', *lines]))


def read_labels(
    data: str | Path,
    *,
    release: str | None = None,
    images: str | Path | None = None,
    image_column: str | None = None,
    score_column: str | None = None,
    prompt_column: str | None = 'prompt',
    further_score_columns: Sequence[str] = (),
    score_range: tuple[float, float] | None = None,
    addresses: bool = False,
) -> Labels:
    """Read a label table and look for every image, without opening it.

    Args:
        data: the table (.csv in UTF-8, .xlsx, .parquet), or the folder of a release, or one that holds a `data.csv`.
        release: the name of the release (see `releases.py`); by default it is recognised by its files and columns.
        images: the folder of the images; by default the table's. Each image is looked for there, then in its `images/`,
            then in the release's folder for images.
        image_column: the column of file names; by default the release's, or else the first column.
        score_column: the column of scores; by default the release's first, or else the second column.
        prompt_column: the column of prompts, None for a table without prompts. A release's is called `prompt`; for one
            without prompts nothing needs to be said.
        further_score_columns: columns of further scores, in which a cell may be empty.
        score_range: lowest and highest score allowed; by default the release's, or else any finite number is allowed.
            Further scores are held to the release's range where it is known.
        addresses: whether an image may be one (addresses.py); it is not looked for here.

    Returns:
        The table; problems of single rows are in its `problems`, not yet raised.

    Raises:
        LabelError: there is no table to read: no file, no such column, or no rows; or it is not of this release.
    """
    source, known = _find_table(Path(data).expanduser(), release)
    records = _ordered_records(known, source.parent) if known and known.order else _read_records(source)
    if not records:
        raise LabelError(f'{source} is empty: a header and at least one row are needed.')
    if known is None:
        known = _recognise(source, records)
    header = _release_header(source, known, records[0]) if known else tuple(records[0])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise LabelError(f'{source} has more than one column {twice[0]!r}: give each column its own name.')
    if len(header) < 2:
        raise LabelError(f'{source} has one column only ({header[0]!r}): image name and score are needed, with commas.')

    ranges = {}
    if known:
        ranges = {name: bounds for name, bounds in known.score_ranges.items() if bounds}
        # a meta info CSV made from the release has the chosen score second: there, positions go before names
        if not (header[0] == known.image_column and header[1] in known.score_ranges):
            image_column = image_column or known.image_column
            score_column = score_column or next(iter(known.score_ranges))
        if known.prompt_column is None and prompt_column == 'prompt':
            prompt_column = None
    image_column = image_column or header[0]
    score_column = score_column or header[1]
    if score_range:
        ranges[score_column] = tuple(score_range)
    position = {
        name: _position(name, header, source)
        for name in [image_column, score_column, *further_score_columns, *([prompt_column] if prompt_column else [])]
    }
    pattern = re.compile(known.file_name) if known and known.file_name else None
    told = [name for name in ('prompt_id', 'generator') if pattern and name in pattern.groupindex and name not in header]

    folder = Path(images).expanduser() if images else source.parent
    # pyiqa's classes take the images' own folder, releases are known by the folder above it
    folders = dict.fromkeys([folder, folder / 'images', *([folder / known.image_folder] if known else [])])
    where = ' or '.join([str(folder), *(f'its {each.relative_to(folder)}/' for each in list(folders)[1:])])
    rows, problems, seen, missing, rows_without_image = [], [], {}, [], []
    for number, cells in enumerate(records[1:], start=2):
        if not cells:
            continue  # an empty line at the end or between rows; it still counts as a row in a spreadsheet
        if len(cells) != len(header):
            problems.append((number, f'{len(cells)} cells, but the header has {len(header)}.'))
            continue
        image = cells[position[image_column]]
        prompt = cells[position[prompt_column]] if prompt_column else ''
        scores = []
        for name in [score_column, *further_score_columns]:
            if name != score_column and not cells[position[name]].strip():
                scores.append(math.nan)
                continue
            score, problem = _score(cells[position[name]], name, ranges.get(name))
            scores.append(score)
            if problem:
                problems.append((number, f'{image}: {problem}'))
        first = seen.setdefault((image, prompt), number)
        if first != number:
            problems.append((number, f'{image}: the same image and prompt as in row {first}.'))
        if addresses and is_uri(image):
            path = image
        else:
            path = next((each / image for each in folders if image and os.path.isfile(each / image)), None)
        match = pattern.fullmatch(Path(image).name) if told else None
        cells = [*cells, *(match[name] if match else '' for name in told)]
        row = Row(number, str(path or ''), scores[0], prompt, tuple(scores[1:]), tuple(cells))
        if path is None:
            missing.append((number, f'{image or "no image name"}: there is no such file in {where}.'))
            rows_without_image.append(row)
        else:
            rows.append(row)
    if not rows and not missing and not problems:
        raise LabelError(f'{source} has a header, but no rows.')
    if len(missing) > 20 and not rows:
        # a wrong folder or column is one problem, not thousands
        problem = f'none of the {len(missing)} images that the column {image_column!r} names, this one first, is in {where}'
        missing = [(missing[0][0], problem + ': name the right folder, or another column.')]
    return Labels(
        source=source,
        release=known,
        header=(*header, *told),
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
    where there are any, the source's other columns as they are, and the further columns. The file appears whole or not
    at all: it is written beside `output` and then renamed.

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
    first = [labels.image_column, labels.score_column, labels.prompt_column, 'prompt_id', 'generator']
    first += labels.release.score_ranges if labels.release else []
    header = list(dict.fromkeys([*(name for name in first if name in labels.header), *labels.header]))
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


def _find_table(data: Path, name: str | None) -> tuple[Path, Release | None]:
    """The file of the table, and its release where that is known before the file is read."""
    try:
        release = find_release(name) if name else None
    except ValueError as error:
        raise LabelError(str(error)) from error
    if data.is_dir():
        tables = [release.table] if release else [each.table for each in RELEASES]
        source = next((data / table for table in tables if (data / table).is_file()), None)
        if source is None:
            known = ', '.join(tables[1:])
            raise LabelError(
                f'{data} holds no {tables[0]}, where {release.name} keeps its labels: name the folder above or below it.'
                if release
                else f'{data} holds no {tables[0]} and no table of a known release ({known}): name the table itself.'
            )
    else:
        source = data
    if release is None:
        # these have no table of images, so that no header can tell them
        release = next((each for each in RELEASES if each.order and each.table == source.name), None)
    return source, release


def _recognise(source: Path, records: Sequence[Sequence[str]]) -> Release | None:
    for release in RELEASES:
        fits = release.header and not _lacking(release, records[0])
        named = release.distinctive or source.name == Path(release.table).name
        first = release.first_image
        if fits and named and (first is None or any(cells and cells[0] == first for cells in records[1:2])):
            return release
    return None


def _lacking(release, header):
    present = {name.casefold() for name in header}
    return [name for name in release.header if name.casefold() not in present]


def _release_header(source, release, header):
    """The header with the release's own spelling of its columns, and with the prompts' column named `prompt`."""
    lacking = _lacking(release, header)
    if lacking:
        raise LabelError(f'{source} is no table of {release.name}: it has no column {", ".join(map(repr, lacking))}.')
    spelling = {name.casefold(): name for name in release.header}
    spelling |= {release.prompt_column.casefold(): 'prompt'} if release.prompt_column else {}
    return tuple(spelling.get(name.casefold(), name) for name in header)


def _ordered_records(release: Release, root: Path) -> list[list[str]]:
    """The table that an ordered release leaves out, with a row for each image."""
    order = release.order
    prompts = [[*cells, *[''] * (order.prompt_position + 1)] for cells in _read_records(root / release.table)[1:]]
    prompts = [cells[order.prompt_position] for cells in prompts if any(cells)]
    if len(prompts) != order.prompts:
        raise LabelError(f'{root / release.table} has {len(prompts)} prompts, {release.name} has {order.prompts}.')
    count = order.generators * order.prompts * order.images_each
    scores = []
    for file in order.score_files.values():
        column = _read_mat(root / file, order.score_variable)
        if len(column) != count:
            raise LabelError(f'{root / file} has {len(column)} scores, {release.name} has {count} images.')
        scores.append(column)
    records = [[release.image_column, *order.score_files, release.prompt_column, 'prompt_id', 'generator']]
    for image in range(count):
        generator, place = divmod(image, order.prompts * order.images_each)
        prompt = place // order.images_each
        name = order.image_name.format(image)
        records.append([name, *(column[image] for column in scores), prompts[prompt], str(prompt + 1), str(generator + 1)])
    return records


def _read_records(source: Path) -> list[list[str]]:
    """All cells of a table as text, its header first."""
    if source.suffix.lower() == '.xlsx':
        return _read_excel(source)
    if source.suffix.lower() == '.parquet':
        return _read_parquet(source)
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


def _read_excel(source):
    import pandas

    try:
        # na_filter: else a prompt that is the word None or NA would be read as an empty cell
        table = pandas.read_excel(source, header=None, dtype=str, na_filter=False, engine='openpyxl')
    except OSError as error:
        raise LabelError(f'{source} cannot be read: {error.strerror or error}.') from error
    # its decoders let through whatever zipfile, zlib, the XML parser or a look-up raises at damaged bytes
    except Exception as error:
        raise LabelError(f'{source} is not a sound .xlsx file ({error}).') from error
    # empty rows are kept by pandas, and mean as little as the empty lines of a CSV
    return [cells if any(cells) else [] for cells in table.values.tolist()]


def _read_parquet(source):
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(source)
    except OSError as error:
        raise LabelError(f'{source} cannot be read: {error.strerror or error}.') from error
    except pyarrow.ArrowException as error:
        raise LabelError(f'{source} is not a sound Parquet file ({error}).') from error
    columns = [['' if cell is None else str(cell) for cell in column.to_pylist()] for column in table.columns]
    return [list(table.column_names), *map(list, zip(*columns, strict=True))]


def _read_mat(source: Path, variable: str) -> list[str]:
    import scipy.io

    try:
        content = scipy.io.loadmat(source, mat_dtype=True, variable_names=[variable])
    except OSError as error:
        raise LabelError(f'{source} cannot be read: {error.strerror or error}.') from error
    except Exception as error:  # whatever struct, zlib or a look-up raises at damaged bytes
        raise LabelError(f'{source} is not a sound .mat file of MATLAB 5 to 7.2 ({error}).') from error
    if variable not in content or content[variable].dtype.kind not in 'fiu':
        raise LabelError(f'{source} holds no numbers with the name {variable}.')
    return [repr(float(score)) for score in content[variable].ravel()]


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
