"""Finds the images that the arguments of `align-iqa score` name: files, folders, globs, URIs, and image tables."""

import csv
import glob
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from align_iqa_plugin.data.image_table import read_image_table
from align_iqa_plugin.data.tables import ENDINGS as TABLE_ENDINGS
from align_iqa_plugin.data.uris import is_uri, list_uri
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.score.rows import OWN_COLUMNS, Row

SAMPLES = Path(__file__).parents[1] / 'samples'


def find_images(arguments: list[str], *, leave_out: Path | None = None) -> tuple[list[Row], list[str]]:
    """A row for each image, each once, in the order of the arguments; and sentences about what was left out.

    An argument that leads to no image gets a row with the reason.

    Args:
        arguments: files, folders, globs, URIs, and image tables. Of a folder and what is below it, files that are named like
            images are taken, but no hidden ones. Links to folders are followed, each folder once.
        leave_out: where a contact sheet is about to be drawn; one that an earlier run has put there is no image.

    Raises:
        ValueError: an image table cannot be used, or there is not a single image.
    """
    search = _Search(leave_out)
    for argument in arguments:
        search.add_argument(argument)
    rows = search.rows
    if not any(is_uri(row.path) or os.path.isfile(row.path) for row in rows if not row.error):
        name, reason = (rows[0].image, rows[0].error) if rows else (arguments[0], 'names no image.')
        if not reason:
            reason = 'is not a file.' if os.path.exists(name) else 'does not exist.'
        raise ValueError(f"there is nothing to score: '{name}' {reason}")
    if search.other_files:
        search.notes.append(
            f'{counted(search.other_files, "file was", "files were")} left out in the folders: not named like an image.'
        )
    return rows, search.notes


def sample_rows() -> list[Row]:
    """The sample images of this package, with their prompts and their MOS for quality."""
    with open(SAMPLES / 'samples.csv', encoding='utf-8', newline='') as file:
        return [
            Row(line['name'], SAMPLES / line['name'], line['prompt'], float(line['mos_quality']))
            for line in csv.DictReader(file)
        ]


class _Search:
    def __init__(self, leave_out: Path | None):
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.other_files = 0
        self._leave_out = leave_out
        self._rows: dict[tuple[str, str | None], Row] = {}

    def add_argument(self, argument: str) -> None:
        if argument.lower().endswith(TABLE_ENDINGS) and (is_uri(argument) or os.path.isfile(argument)):
            self._add_table(argument)
        elif is_uri(argument):
            self._add_uri(argument)
        else:
            path = os.path.expanduser(argument)
            # A file whose name looks like a glob is still a file.
            exact = os.path.exists(path) or not glob.has_magic(path)
            matches = [path] if exact else sorted(glob.glob(path, recursive=True))
            if not matches:
                self._add(path, 'matches no file.')
            for match in matches:
                if os.path.isdir(match):
                    self._add_folder(match)
                else:
                    self._add(match)

    def _add(self, path: str, error: str = '', prompt: str | None = None) -> Row:
        """The new row, or the one that is there."""
        key = (path if is_uri(path) else os.path.abspath(path), prompt)
        if key not in self._rows:
            self._rows[key] = Row(path, path if is_uri(path) else Path(path), prompt, error=error)
            self.rows.append(self._rows[key])
        return self._rows[key]

    def _add_table(self, table: str) -> None:
        images, left_out = read_image_table(table)
        if left_out:
            names = ', '.join(map(repr, left_out))
            self.notes.append(f"'{table}': columns without a name, or with binary or nested values, are left out: {names}.")
        names_of = _output_names(images[0].columns) if images else {}
        self.notes += [
            f"The column '{column}' of '{table}' is '{name}' in the output."
            for column, name in names_of.items()
            if name != column
        ]
        lost = 0
        for image, prompt, cells, no_prompt in images:
            columns = {names_of[column]: cell for column, cell in cells.items()}
            row = self._add(image, prompt=prompt)
            row.no_prompt = row.no_prompt or no_prompt
            row.columns = row.columns or columns
            lost += row.columns != columns
        if lost:
            self.notes.append(
                f"In '{table}', {counted(lost, 'row names', 'rows name')} an image again, with the same prompt: further "
                'columns are left out.'
            )

    def _add_uri(self, uri: str) -> None:
        try:
            files = list_uri(uri)
        except OSError as error:
            self._add(uri, f'cannot be listed: {" ".join(str(error).split())}')
            return
        self._add_images(uri, [file for file in files if file == uri or _is_image(file)], len(files))

    def _add_folder(self, folder: str) -> None:
        files = list(self._files_below(folder))
        self._add_images(folder, list(filter(_is_image, files)), len(files))

    def _add_images(self, folder: str, images: list[str], files: int) -> None:
        for image in images:
            self._add(image)
        if not images:
            self._add(folder, 'is a folder without an image.')
        self.other_files += files - len(images)

    def _files_below(self, folder: str) -> Iterator[str]:
        """Visible files; a folder that several links lead to, or that a link in it leads back to, is entered once."""
        entered = {os.path.realpath(folder)}

        def is_new(path: str) -> bool:
            real = os.path.realpath(path)
            if real in entered:
                return False
            entered.add(real)
            return True

        walk = os.walk(
            folder, followlinks=True, onerror=lambda error: self._add(error.filename, f'cannot be listed: {error.strerror}.')
        )
        for parent, folders, files in walk:
            visible = sorted(name for name in folders if not name.startswith('.'))
            # links last, so that what lies beside them keeps its own name
            links = {name for name in visible if os.path.islink(os.path.join(parent, name))}
            visible.sort(key=links.__contains__)
            folders[:] = [name for name in visible if is_new(os.path.join(parent, name))]
            for name in sorted(name for name in files if not name.startswith('.')):
                path = os.path.join(parent, name)
                if self._is_earlier_sheet(path):
                    self.notes.append(f"'{self._leave_out}' is left out of the images: the contact sheet is drawn there.")
                else:
                    yield path

    def _is_earlier_sheet(self, path: str) -> bool:
        if self._leave_out is None or os.path.abspath(path) != os.path.abspath(self._leave_out):
            return False
        from align_iqa_plugin.score.contact_sheet import is_contact_sheet

        return is_contact_sheet(self._leave_out)


def _output_names(columns: Collection[str]) -> dict[str, str]:
    """What the further columns of a table are called in the output, where other columns have names as well."""
    names: dict[str, str] = {}
    taken = {*OWN_COLUMNS, *columns}
    for column in columns:
        name = column
        if column in OWN_COLUMNS:
            while name in taken:
                name = f'table_{name}'
            taken.add(name)
        names[column] = name
    return names


def _is_image(name: str) -> bool:
    from align_iqa_plugin.data.images import ENDINGS

    return os.path.splitext(name)[1].lower() in ENDINGS
