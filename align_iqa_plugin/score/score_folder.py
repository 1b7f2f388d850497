"""A folder of Parquet files that holds scores while they are computed: an image that has a score there is not scored again.

Each file appears whole or not at all, with the columns image, prompt, score, std, width, height and error; unknown prompts, the
numbers of images that failed, and the std of weights that state none, are null. When all is scored, further columns may be
added to all files. A row is found again by its image (absolute path or URI) and prompt. The files also name the weights and the
version of this package that the scores come from: a folder holds the scores of one of those.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow
from filelock import FileLock, Timeout
from pyarrow import parquet

from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.score.rows import OWN_COLUMNS, Engine, Row, further_columns

FILE_ROWS, FILE_SECONDS = 10_000, 20  # a file is written when it has these, or after that time

_KINDS = {
    'image': pyarrow.string(),
    'prompt': pyarrow.string(),
    'score': pyarrow.float64(),
    'std': pyarrow.float64(),
    'width': pyarrow.int64(),
    'height': pyarrow.int64(),
    'error': pyarrow.string(),
}


class FolderError(ValueError):
    """A folder of scores cannot be used; the message names it, or the file in it, and the way out."""


class ScoreFolder:
    """The folder, created where there is none, and used by one process at a time.

    Args:
        path: the folder.
        origin: weights and version that the scores come from.

    Raises:
        FolderError: the folder holds something else, is of another origin, is in use, or cannot be read.
    """

    def __init__(self, path: Path, origin: str):
        self.path = path
        try:
            path.mkdir(exist_ok=True)
            self._lock = FileLock(path / '.lock', timeout=0)
            self._lock.acquire()
            files = sorted(path.glob('*.parquet'))
            schemas = {file: _read(file, parquet.read_schema) for file in files}
        except Timeout as error:
            raise FolderError(f"another command is writing into '{path}'; wait for it, or choose another output.") from error
        except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise FolderError(f"'{path}' cannot be used: {' '.join(str(error).split())}.") from error
        self.schema = pyarrow.schema(_KINDS.items(), metadata={'origin': origin})
        for file, schema in schemas.items():
            if not {*self.schema.names} - {'std'} <= {*schema.names}:
                raise FolderError(f"'{file}' holds no scores of `align-iqa score`; choose another output.")
            # the files of 0.4.0 have no std
            if (schema.metadata or {}).get(b'origin') != origin.encode() or 'std' not in schema.names:
                raise FolderError(
                    f"'{path}' holds scores of other weights or of another version; delete it, or choose another output."
                )
        numbers = [file.stem.removeprefix('part-') for file in files]
        self._next = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)

    def close(self) -> None:
        """Let another process use the folder."""
        self._lock.release()

    def read_scored(self, images: Iterable[str]) -> dict[tuple[str, str | None], dict]:
        """The rows that have a score, by image and prompt; rows of these images without a score are removed from the folder.

        Raises:
            FolderError: a file is damaged.
        """
        asked = set(images)
        scored: dict[tuple[str, str | None], dict] = {}
        for file, table in self._tables():
            rows = table.to_pylist()
            scored |= {(row['image'], row['prompt']): row for row in rows if row['score'] is not None}
            kept = [row for row in rows if row['score'] is not None or row['image'] not in asked]
            if not kept:
                file.unlink()
            elif len(kept) < len(rows):
                self._replace(file, pyarrow.Table.from_pylist(kept, table.schema))
        return scored

    def fill(self, rows: list[Row]) -> int:
        """Give each row the score that it has in the folder; gives how many had one."""
        scored = self.read_scored(row.key[0] for row in rows)
        found = 0
        for row in rows:
            if not row.error and (known := scored.get(row.key)):
                row.score, row.std, row.width, row.height = (known[name] for name in ('score', 'std', 'width', 'height'))
                found += 1
        return found

    def add(self, rows: list[Mapping]) -> None:
        """Put these rows into the folder, all at once."""
        if rows:
            self._replace(self.path / f'part-{self._next:06}.parquet', pyarrow.Table.from_pylist(rows, self.schema))
            self._next += 1

    def add_columns(self, rows: list[Row]) -> None:
        """Give all files the further columns of these rows, before the score, and `kept` behind `std` where there is a choice.

        Other rows in the folder keep what they have, or get null, so that all files have the same columns.

        Raises:
            FolderError: a file is damaged.
            OSError: a file cannot be written.
        """
        names = [name for file in sorted(self.path.glob('*.parquet')) for name in _read(file, parquet.read_schema).names]
        further = list(dict.fromkeys(name for name in [*names, *further_columns(rows)] if name not in OWN_COLUMNS))
        choice = ['kept'] * ('kept' in names or any(row.kept is not None for row in rows))
        if not further and not choice:
            return
        kinds = _KINDS | {'kept': pyarrow.bool_()} | dict.fromkeys(further, pyarrow.string())
        order = ['image', 'prompt', *further, 'score', 'std', *choice, 'width', 'height', 'error']
        schema = pyarrow.schema([(name, kinds[name]) for name in order], metadata=self.schema.metadata)
        row_of = {row.key: row for row in rows}
        for file, table in self._tables():
            records = table.to_pylist()
            for record in records:
                if row := row_of.get((record['image'], record['prompt'])):
                    record.update(dict.fromkeys(further) | row.columns | {'kept': row.kept})
            self._replace(file, pyarrow.Table.from_pylist(records, schema))

    def _tables(self) -> Iterator[tuple[Path, pyarrow.Table]]:
        """Each file, and what is in it.

        Raises:
            FolderError: a file is damaged.
        """
        for file in sorted(self.path.glob('*.parquet')):
            try:
                yield file, _read(file, partial(parquet.read_table, page_checksum_verification=True))
            except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
                reason = ' '.join(str(error).split())
                raise FolderError(f"'{file}' is damaged ({reason}); delete it, and its images are scored again.") from error

    @property
    def is_empty(self) -> bool:
        return not any(self.path.glob('*.parquet'))

    def remove(self) -> None:
        """Delete the folder with its scores, unless another process uses it by now."""
        with suppress(Timeout), self._lock.acquire(timeout=0):
            for file in self.path.glob('*.parquet'):
                file.unlink()
            removed = self.path
            with suppress(OSError):  # Windows renames no folder of an open file
                # a command that starts as soon as the lock is free must not lose what it writes
                removed = self.path.rename(self.path.with_name(f'{self.path.name}.{os.getpid()}.removed'))
            self._lock.release()
            shutil.rmtree(removed)

    def _replace(self, file: Path, table: pyarrow.Table) -> None:
        with atomic_file(file) as part, part.open('wb') as opened:
            parquet.write_table(table, opened, write_page_checksum=True)


def _read(file: Path, read: Callable):
    with file.open('rb') as opened:  # pyarrow opens no path that is not UTF-8
        return read(opened)


def score_remaining(rows: list[Row], engine: Engine, folder: ScoreFolder | None, advance: Callable[[], None]) -> None:
    """Score the rows that have no score, and put them into the folder while they come.

    Args:
        rows: each gets a score or an error.
        engine: scores them.
        folder: None: the scores are only given to the rows.
        advance: is called for each row that is done.

    Raises:
        OSError: the folder cannot be written, for example because the disk is full.
    """
    unsaved = [row for row in rows if row.error]
    for row in rows:
        if row.done:
            advance()

    def save() -> None:
        if folder:
            folder.add([{**vars(row), **dict(zip(('image', 'prompt'), row.key, strict=True))} for row in unsaved])
        unsaved.clear()

    saved = time.monotonic()
    try:
        for row in engine([row for row in rows if not row.done]):
            unsaved.append(row)
            advance()
            if len(unsaved) >= FILE_ROWS or time.monotonic() - saved > FILE_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        save()
