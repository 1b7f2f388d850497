"""Checks of what a command is about to write, before any work, and of what it prints."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

import typer

from align_iqa_plugin.data.uris import is_uri
from align_iqa_plugin.runtime.atomic import part_of
from align_iqa_plugin.runtime.errors import message_of
from align_iqa_plugin.runtime.files import expand_home


class OutputError(ValueError):
    """An output cannot be written; the message is one sentence that begins with the option."""


def check_output(
    option: str,
    path: str | Path | None,
    *,
    endings: Sequence[str] = (),
    inputs: Iterable[str | Path | None] = (),
    folder: bool = False,
) -> None:
    """Check that a file, or a folder, can be written and that no input would be overwritten by it. Nothing is left behind.

    Args:
        option: as the user knows it, such as '--output'.
        path: what it names; None if it was not given, which is fine.
        endings: possible endings of the name, in lower case; none: any.
        inputs: files that the command reads. None and URIs among them are passed over.
        folder: whether `path` is a folder, which is created where there is none.

    Raises:
        OutputError: it cannot be written, or must not be.
    """
    if path is None:
        return
    path = expand_home(path)
    if endings and path.suffix.lower() not in endings:
        raise OutputError(f"{option} '{path}' must end in {' or '.join(endings)}.")
    overwritten = _find_same(path, inputs)
    if overwritten is not None:
        raise OutputError(f"{option} '{path}' would overwrite '{overwritten}', which is read; give it another name.")
    try:
        if path.is_dir() and not folder:
            raise OutputError(f"{option} '{path}' is a folder.")
        if path.exists() and not path.is_dir() and (folder or not path.is_file()):
            raise OutputError(f"{option} '{path}' is not a {'folder' if folder else 'regular file'}.")
        target = path.resolve()
        if not target.parent.is_dir():
            raise OutputError(f"{option} '{path}': there is no folder '{path.parent}'; create it first.")
        trial = part_of(target / target.name if path.is_dir() else target)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OutputError(f"{option} '{path}' cannot be written: {error.strerror or error}.") from error


def try_to_write(write: Callable[[], str]) -> bool:
    """Print the sentence that `write` gives, or the one that says why it failed; gives whether it worked."""
    try:
        sentence, written = write(), True
    except (OSError, ValueError) as error:
        sentence, written = message_of(error), False
    typer.echo(sentence, err=True)
    return written


def show_any_character() -> None:
    """Let stdout and stderr escape the characters that their encoding lacks (cp1252, ASCII), instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a stream that replaces it need not be one
            stream.reconfigure(errors='backslashreplace')


def _find_same(path: Path, inputs: Iterable[str | Path | None]) -> str | Path | None:
    """The input that is the same file, under whatever name."""
    try:
        target = path.stat()
    except OSError:  # nothing is there to be overwritten
        return None
    for name in inputs:
        if name is not None and not is_uri(name):
            with suppress(OSError):  # an input that does not exist
                if os.path.samestat(target, os.stat(expand_home(name))):
                    return name
    return None
