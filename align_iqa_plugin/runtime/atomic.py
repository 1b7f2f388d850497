"""Files that appear whole or not at all: the one way in which this package writes a file."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """A path to write to inside the block, which replaces `path` if the block ends without an error.

    What is at `path` stays as it was if the block fails, and no part of
    the new file is left behind.

    Args:
        path: the file; if it is a link, the file that it leads to.
        durable: wait until the file is on disk. Without it a power cut may lose the file or leave it damaged: for many small
            files that can be made again.

    Raises:
        OSError: it cannot be written, for example because the disk is full; the message names `path` and the reason.
    """
    path = Path(path).expanduser().resolve()
    # containers that share a folder may have equal process numbers
    part = path.with_name(f'.{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part')
    try:
        yield part
        if durable:
            _sync(part)
        os.replace(part, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"'{path}' cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def atomic_write(path: str | Path, *parts: bytes | memoryview) -> None:
    """Write a file that holds `parts`, one after the other; `atomic_file` says how and what it raises."""
    with atomic_file(path) as part, part.open('wb') as file:
        for content in parts:
            file.write(content)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk; Windows can do this for neither."""
    if os.name != 'posix':
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
