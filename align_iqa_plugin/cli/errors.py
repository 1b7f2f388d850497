"""What a command says on stderr, and how it ends when it cannot begin, or cannot go on."""

from typing import NoReturn

import typer

from align_iqa_plugin.runtime.errors import message_of, printable


def fail(command: str, problem: str | Exception) -> NoReturn:
    """Print ``align-iqa COMMAND: problem`` to stderr and exit with status 2, before any work."""
    stop(command, 2, problem)


def stop(command: str, status: int, problem: str | Exception) -> NoReturn:
    """Print ``align-iqa COMMAND: problem`` to stderr and exit with this status."""
    typer.echo(f'align-iqa {command}: {message_of(problem)}', err=True)
    raise typer.Exit(status)


def say(sentence: str) -> None:
    """Print a sentence to stderr, on one line."""
    typer.echo(printable(sentence), err=True)
