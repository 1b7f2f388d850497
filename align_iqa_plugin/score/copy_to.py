"""Puts pictures into a folder, as copies or as links. Nothing there is overwritten, and what is there is not made anew."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from glob import glob, has_magic
from itertools import count, takewhile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from align_iqa_plugin.data.images import MAX_FILE_BYTES
from align_iqa_plugin.data.uris import WEB_SCHEMES, is_uri, read_uri
from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.runtime.files import read_bytes
from align_iqa_plugin.score.metadata import MetadataError, with_score
from align_iqa_plugin.score.rows import Row


@dataclass
class Copies:
    """What has been put into a folder.

    Attributes:
        made: files or links that are new.
        found: those that were there already, from a command that was stopped.
        others: further files and folders in the folder, without hidden ones.
        missing: pictures that are not there.
        problems: a sentence for each picture that is not there, or without its score.
    """

    made: int = 0
    found: int = 0
    others: int = 0
    missing: int = 0
    problems: list[str] = field(default_factory=list)


def check_outside(option: str, folder: Path | None, arguments: Iterable[str], rows: Iterable[Row]) -> None:
    """Check that the next command of these arguments would not take what is put into the folder for further pictures.

    Args:
        option: as the user knows it, such as '--copy-to'.
        folder: where pictures are to be put; None is fine.
        arguments: of the command.
        rows: what they lead to.

    Raises:
        ValueError: the folder is in one that is searched, or holds one of the pictures.
    """
    if folder is None:
        return
    target = os.path.realpath(folder)
    for argument in arguments:
        for searched in _searched_folders(argument):
            if _is_in(target, os.path.realpath(searched)):
                raise ValueError(
                    f"{option} '{folder}' is in '{searched}', which is searched for pictures; choose another folder."
                )
    for parent in {os.path.dirname(os.path.abspath(row.path)) for row in rows if not is_uri(row.path)}:
        if _is_in(os.path.realpath(parent), target):
            raise ValueError(f"{option} '{folder}' holds pictures that are scored, in '{parent}'; choose another folder.")


def copy_rows(rows: Iterable[Row], folder: Path, *, as_links: bool = False, write_metadata: bool = False) -> Copies:
    """Put the picture of each row into the folder, once, under its own name; a name that is taken gets a number.

    Args:
        rows: with scores.
        folder: is created where there is none.
        as_links: symbolic links to absolute paths, in place of copies.
        write_metadata: write the score into each copy (see `metadata.py`). A picture of several rows has a copy for each.
    """
    copies, names, done = Copies(), _Names(folder), set()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        return Copies(missing=len(list(rows)), problems=[f"'{folder}' cannot be created: {error.strerror or error}."])
    for row in rows:
        key = row.key if write_metadata else row.key[0]
        if key in done:
            continue
        done.add(key)
        try:
            if as_links:
                is_new = _link(row, names)
            else:
                content = _content(row)
                if write_metadata and row.score is not None:
                    try:
                        content = with_score(content, row.score)
                    except MetadataError as error:
                        copies.problems.append(f"'{row.image}' is copied without its score: it {error}.")
                is_new = _write(content, row, names)
        except OSError as error:
            reason = str(error.strerror or error).rstrip('.')
            copies.problems.append(f"'{row.image}' is not in '{folder}': {reason}.")
            copies.missing += 1
        else:
            copies.made += is_new
            copies.found += not is_new
    copies.others = sum(not name.startswith('.') and name.casefold() not in names.taken for name in os.listdir(folder))
    return copies


class _Names:
    """The names in a folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.taken: set[str] = set()  # by a picture of this command
        self._next: dict[str, int] = {}

    def place(self, row: Row, is_same: Callable[[Path], bool]) -> tuple[Path, bool]:
        """The path for the picture of this row, and whether it is there already, which `is_same` finds out."""
        stem, ending = os.path.splitext(file_name(row))
        for number in count(self._next.get(stem + ending, 1)):
            path = self._folder / (f'{stem}{ending}' if number == 1 else f'{stem}_{number}{ending}')
            is_there = os.path.lexists(path)
            # in some file systems A and a are one name
            if path.name.casefold() not in self.taken and (not is_there or is_same(path)):
                self.taken.add(path.name.casefold())
                self._next[stem + ending] = number + 1
                return path, is_there
        raise AssertionError  # numbers do not end


def _link(row: Row, names: _Names) -> bool:
    """Link to the picture; gives whether the link is new."""
    if is_uri(row.path):
        raise OSError('no link leads to a URI; copy it')
    target = os.path.abspath(row.path)
    path, is_there = names.place(row, lambda path: path.is_symlink() and os.path.realpath(path) == os.path.realpath(target))
    if not is_there:
        path.symlink_to(target)
    return not is_there


def _write(content: bytes, row: Row, names: _Names) -> bool:
    """Write the picture; gives whether the file is new."""

    def is_same(path: Path) -> bool:
        is_file = path.is_file() and not path.is_symlink()
        return is_file and path.stat().st_size == len(content) and path.read_bytes() == content

    path, is_there = names.place(row, is_same)
    if not is_there:
        with atomic_file(path, durable=False) as part:
            part.write_bytes(content)
    return not is_there


def _content(row: Row) -> bytes:
    return read_uri(str(row.path)) if is_uri(row.path) else read_bytes(row.path, most=MAX_FILE_BYTES)


def file_name(row: Row) -> str:
    """The name of the picture's file; that of a web page without its query."""
    path = str(row.path)
    if path.partition('://')[0].lower() in WEB_SCHEMES:
        path = unquote(urlsplit(path).path).replace('\0', '')
    name = path.rpartition('/')[2] if is_uri(row.path) else Path(path).name
    return name if name not in ('', '.', '..') else 'image'


def _searched_folders(argument: str) -> list[str]:
    """The folders whose subfolders an argument of the command leads to."""
    path = os.path.expanduser(argument.removeprefix('file://'))
    if os.path.isdir(path):
        return [path]
    if os.path.exists(path) or is_uri(path) or not has_magic(path):
        return []
    if '**' in path:
        fixed = takewhile(lambda part: not has_magic(part), Path(path).parts)
        return [str(Path(*fixed))]
    return [match for match in glob(path) if os.path.isdir(match)]


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ''))
