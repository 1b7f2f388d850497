"""How a command ends that cannot begin, or cannot go on."""

from typing import NoReturn

import typer


def fail(command: str, sentence: str) -> NoReturn:
    """Print ``align-iqa COMMAND: sentence`` to stderr and exit with status 2, before any work."""
    stop(command, 2, sentence)


def stop(command: str, status: int, sentence: str) -> NoReturn:
    """Print ``align-iqa COMMAND: sentence`` to stderr and exit with this status."""
    typer.echo(f'align-iqa {command}: {sentence}', err=True)
    raise typer.Exit(status)
