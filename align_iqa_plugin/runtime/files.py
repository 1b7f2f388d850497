"""Files that users name, read within limits: a pipe or a device would have no end, and a huge file fill the memory."""

import errno
import hashlib
import os
from pathlib import Path

PACKAGED_NAMES = ('packaged', 'packaged-fast')  # the models that the package carries: the best one, and that of one view


def are_weights(path: str | Path) -> bool:
    """Whether there is a file, or the path is the name of a packaged model."""
    return str(path) in PACKAGED_NAMES or expand_home(path).is_file()


def expand_home(path: str | Path) -> Path:
    """The path with ``~`` and ``~NAME`` replaced by a home folder; it stays where there is no user of that name."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises RuntimeError there


def check_regular(path: str | Path) -> None:
    """OSError if there is something at the path that is neither a file nor a folder, such as a pipe or /dev/zero."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, 'It is a pipe or a device, and not a file', str(path))


def read_bytes(path: str | Path, *, most: int) -> bytes:
    """All bytes of a file.

    Args:
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, is not a file, or has more bytes.
    """
    check_regular(path)
    with open(path, 'rb') as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f'It has more than {most:,} bytes', str(path))
    return content


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text, read a piece at a time.

    Raises:
        OSError: it cannot be read, or is not a file.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
