"""How a command ends that cannot begin."""

from typing import NoReturn

import typer


def refuse(command: str, sentence: str) -> NoReturn:
    """Print ``align-iqa COMMAND: sentence`` to stderr and exit with status 2, before any work."""
    typer.echo(f'align-iqa {command}: {sentence}', err=True)
    raise typer.Exit(2)
