"""Finds the table of labels in a data set's folder, identifies its release, and reads it under uniform names of the columns.

`releases.py` states what is known of each release.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from align_iqa_plugin.data.releases import RELEASES, Order, Release, find_release
from align_iqa_plugin.data.tables import Table, TableError, put_below, read_table
from align_iqa_plugin.runtime.counts import counted


def read_release_table(data: Path, name: str | None) -> tuple[Table, Release | None]:
    """The table of labels of a data set, and the release that it belongs to, None if it is none of those known.

    The columns of a release have its own spelling, whatever the case of their letters, and that of the prompts is `prompt`. A
    release with a table of its official test images has a column `phase`, with train or test in each row. Its folder stands
    for both tables, and each table for itself.

    Args:
        data: the table, the folder of a release, or one that holds a `data.csv`.
        name: of the release; by default it is recognized by its files and columns.

    Raises:
        TableError: there is no such table, or it is not of this release.
    """
    source, release = _find_table(data, name)
    if release and release.order:
        table = _table_of_order(release, release.order, source.parent)
    else:
        table = read_table(source)
        release = release or _recognize(source, table)
    if release is None:
        return table, None
    table = _in_release_spelling(table, release)
    if release.test_table and source.name in release.tables:
        table = _with_phase(table, 'test' if source.name == release.test_table else 'train')
        if data.is_dir():
            test_table = _in_release_spelling(read_table(data / release.test_table), release)
            table = put_below(table, _with_phase(test_table, 'test'))
    return table, release


def columns_in_names(release: Release | None, header: Sequence[str], images: Sequence[str]) -> dict[str, list[str]]:
    """`prompt_id` and `generator` of images, where the release puts them into their file names; '' where a name holds none.

    A column that the table has itself is left out.
    """
    pattern = re.compile(release.file_name if release and release.file_name else '')
    names = [name for name in ('prompt_id', 'generator') if name in pattern.groupindex and name not in header]
    matches = [pattern.fullmatch(Path(image).name) for image in images]
    return {name: [match[name] if match else '' for match in matches] for name in names}


def _find_table(data: Path, name: str | None) -> tuple[Path, Release | None]:
    """The file of the table, and its release where that is known before the file is read."""
    try:
        release = find_release(name) if name else None
    except ValueError as error:
        raise TableError(str(error)) from error
    source = data
    if data.is_dir():
        tables = [release.table] if release else [each.table for each in RELEASES]
        found = next((data / table for table in tables if (data / table).is_file()), None)
        if found is None and release:
            raise TableError(f"'{data}' has no {release.table}, where {release.name} keeps its labels: name another folder.")
        if found is None:
            known = ', '.join(tables[1:])
            raise TableError(f"'{data}' has no {tables[0]} and no table of a known release ({known}): name the table itself.")
        source = found
    if release is None:
        # the table of an ordered release lists no images, so that only its name identifies it
        release = next((each for each in RELEASES if each.order and each.table == source.name), None)
    return source, release


def _recognize(source: Path, table: Table) -> Release | None:
    for release in RELEASES:
        fits = release.header and not _missing_columns(release, table.header)
        named = release.distinctive or source.name in release.tables
        begins = release.first_image is None or [cells[0] for _, cells in table.rows[:1]] in ([], [release.first_image])
        if fits and named and begins:
            return release
    return None


def _in_release_spelling(table: Table, release: Release) -> Table:
    missing = _missing_columns(release, table.header)
    if missing:
        raise TableError(f"'{table.source}' is no table of {release.name}: it has no column {', '.join(map(repr, missing))}.")
    spelling = {name.casefold(): name for name in release.header}
    if release.prompt_column:
        spelling[release.prompt_column.casefold()] = 'prompt'
    return replace(table, header=tuple(spelling.get(name.casefold(), name) for name in table.header))


def _with_phase(table: Table, phase: str) -> Table:
    return replace(table, header=(*table.header, 'phase'), rows=[(number, [*cells, phase]) for number, cells in table.rows])


def _missing_columns(release: Release, header: Sequence[str]) -> list[str]:
    present = {name.casefold() for name in header}
    return [name for name in release.header if name.casefold() not in present]


def _table_of_order(release: Release, order: Order, root: Path) -> Table:
    """The table that an ordered release leaves out, with a row for each image."""
    source = root / release.table
    prompts = [[*cells, *[''] * order.prompt_position][order.prompt_position] for _, cells in read_table(source).rows]
    if len(prompts) != order.prompts:
        raise TableError(f"'{source}' has {counted(len(prompts), 'prompt')}, but {release.name} has {order.prompts}.")
    count = order.generators * order.prompts * order.images_each
    scores = {name: _read_mat(root / file, order.score_variable) for name, file in order.score_files.items()}
    for name, column in scores.items():
        if len(column) != count:
            file = root / order.score_files[name]
            raise TableError(f"'{file}' has {counted(len(column), 'score')}, but {release.name} has {count:,} images.")
    header = (release.image_column, *scores, 'prompt', 'prompt_id', 'generator')
    rows = []
    for image in range(count):
        generator, place = divmod(image, order.prompts * order.images_each)
        prompt = place // order.images_each
        cells = [order.image_name.format(image), *(column[image] for column in scores.values())]
        rows.append((image + 2, [*cells, prompts[prompt], str(prompt + 1), str(generator + 1)]))
    return Table(str(source), header, rows, problems=[])


def _read_mat(source: Path, variable: str) -> list[str]:
    import scipy.io

    try:
        content = scipy.io.loadmat(source, mat_dtype=True, variable_names=[variable])
    except OSError as error:
        raise TableError(f"'{source}' cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # whatever struct, zlib or a look-up raises at damaged bytes
        raise TableError(f"'{source}' is not a sound .mat file of MATLAB 5 to 7.2 ({error}).") from error
    if variable not in content or content[variable].dtype.kind not in 'fiu':
        raise TableError(f"'{source}' has no numbers with the name {variable}.")
    return [repr(float(score)) for score in content[variable].ravel()]
