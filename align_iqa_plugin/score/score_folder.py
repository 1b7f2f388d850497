"""A folder of Parquet files with scores that is its own manifest: what stands there with a score is not computed again.

Each file appears whole, with the columns image, prompt, score, width, height and error; texts that are not known and
numbers of failed images are null. A row is found again by its image (path or address) and prompt. The weights and the
version of this package that the scores come from are kept with them, and one folder holds the scores of one of those.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow
from filelock import FileLock, Timeout
from pyarrow import parquet

_KINDS = {
    'image': pyarrow.string(),
    'prompt': pyarrow.string(),
    'score': pyarrow.float64(),
    'width': pyarrow.int64(),
    'height': pyarrow.int64(),
    'error': pyarrow.string(),
}


class ScoreFolder:
    """The folder, created where there is none, and held by one process at a time.

    Args:
        path: the folder.
        origin: weights and version that the scores come from.

    Raises:
        ValueError: the folder is no such one, is of another origin, is in use, or cannot be read; the message says which.
    """

    def __init__(self, path: Path, origin: str):
        self.path = path
        try:
            path.mkdir(exist_ok=True)
            self._lock = FileLock(path / '.lock', timeout=0)
            self._lock.acquire()
            files = sorted(path.glob('*.parquet'))
            schemas = {file: parquet.read_schema(file) for file in files}
        except Timeout as error:
            raise ValueError(f"another command is writing into '{path}'; wait for it, or choose another folder.") from error
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"'{path}' cannot be used: {' '.join(str(error).split())}.") from error
        self.schema = pyarrow.schema(_KINDS.items(), metadata={'origin': origin})
        for file, schema in schemas.items():
            if not schema.equals(self.schema):
                raise ValueError(f"'{file}' holds no scores of `align-iqa score`; choose another folder.")
            if (schema.metadata or {}).get(b'origin') != origin.encode():
                raise ValueError(f"'{path}' holds scores of other weights or of another version; choose another folder.")
        numbers = [file.stem.removeprefix('part-') for file in files]
        self._next = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.release()

    def read_scored(self, images: Iterable[str]) -> dict[tuple[str, str | None], dict]:
        """The rows that have a score, by image and prompt; rows of these images without a score are taken out of the folder."""
        images, scored = set(images), {}
        for file in sorted(self.path.glob('*.parquet')):
            rows = parquet.read_table(file).to_pylist()
            scored |= {(row['image'], row['prompt']): row for row in rows if row['score'] is not None}
            kept = [row for row in rows if row['score'] is not None or row['image'] not in images]
            if not kept:
                file.unlink()
            elif len(kept) < len(rows):
                self._replace(file, kept)
        return scored

    def add(self, rows: list[Mapping]) -> None:
        """Put these rows into the folder, all at once."""
        if rows:
            self._replace(self.path / f'part-{self._next:06}.parquet', rows)
            self._next += 1

    def _replace(self, file: Path, rows: list[Mapping]) -> None:
        unfinished = file.with_name(f'.{file.name}.unfinished')
        try:
            parquet.write_table(pyarrow.Table.from_pylist(rows, self.schema), unfinished)
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)
