"""One process at a time: locks in files, which the system frees when their process ends, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class InUse(ValueError):
    """Another process has the lock; the message says what to do about it."""


@contextmanager
def lock(path: Path, problem: str, *, seconds: float = 0) -> Iterator[None]:
    """Inside, no other process is inside a lock of this path.

    A process that has the lock may enter it again.

    Args:
        path: the lock's own file, which stays; folders above it are made.
        problem: the message of `InUse`.
        seconds: to wait for a process that has the lock; -1: until it ends.

    Raises:
        InUse: another process has the lock.
        OSError: the file cannot be made; the message names it and the reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, is_singleton=True).acquire(timeout=seconds)
    except Timeout as error:
        raise InUse(problem) from error
    except OSError as error:
        raise OSError(error.errno, f"'{path}' cannot be made: {error.strerror or error}") from error
    with held:
        yield
