"""Files that appear whole or not at all: the one way in which this package writes a file."""

import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from align_iqa_plugin.runtime.files import expand_home

NAME_BYTES = 200  # of a file's name that its part begins with: file systems take 255, and a number and an ending follow
ABANDONED_SECONDS = 3600  # a part that nobody wrote to for so long was left behind by a process that was killed


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """A path to write to inside the block, which replaces `path` if the block ends without an error.

    What is at `path` stays as it was if the block fails, and no part of
    the new file is left behind; SIGTERM ends the block as an error does.
    The part that a killed process has left is removed by a later write.
    The file has the mode that the user's umask gives to new files.

    Args:
        path: the file; if it is a link, the file that it leads to.
        durable: wait until the file is on disk. Without it a power cut may lose the file or leave it damaged: for many small
            files that can be made again.

    Raises:
        OSError: it cannot be written, for example because the disk is full; the message names `path` and the reason.
    """
    path = expand_home(path).resolve()
    part = part_of(path)
    try:
        with _exit_at_sigterm():
            if durable:  # of many small files, the folder is not searched for each
                _remove_abandoned(path)
            part.touch()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)  # a writer may have put a file of its own there, readable by its user alone
            if durable:
                _sync(part)
            os.replace(part, path)
            if durable:
                _sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"'{path}' cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the folder that cannot be written, whose error is on its way
            part.unlink(missing_ok=True)


def atomic_write(path: str | Path, *parts: bytes | memoryview) -> None:
    """Write a file that holds `parts`, one after the other; `atomic_file` says how and what it raises."""
    with atomic_file(path) as part, part.open('wb') as file:
        for content in parts:
            file.write(content)


def part_of(path: Path) -> Path:
    """A new path beside a file, where this process writes it until it is whole."""
    # containers that share a folder may have equal process numbers
    return path.with_name(f'.{_beginning(path.name)}.{os.getpid()}.{secrets.token_hex(4)}.part')


def _beginning(name: str) -> str:
    while len(os.fsencode(name)) > NAME_BYTES:
        name = name[:-1]
    return name


def _remove_abandoned(path: Path) -> None:
    # older versions had no second number
    part = re.compile(rf'\.{re.escape(_beginning(path.name))}\.\d+(\.[0-9a-f]{{8}})?\.part')
    for entry in os.scandir(path.parent):
        if part.fullmatch(entry.name):
            with suppress(OSError):  # another process removes it too
                if time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
                    os.unlink(entry)


@contextmanager
def _exit_at_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit, unless it is handled already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk; Windows can do this for neither."""
    if os.name != 'posix':
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
