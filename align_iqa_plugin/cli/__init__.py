"""The `align-iqa` command: one file a sub-command, each with one function of the file's name.

Nothing heavy is imported here, so that help is quick: torch and pyiqa are imported inside the functions that need them.
"""

from typing import Annotated

import typer

from align_iqa_plugin import __version__
from align_iqa_plugin.cli import bench, evaluate, export, score, splits, train

app = typer.Typer(
    help='Align-IQA, a quality metric for AI-generated images.',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option('--version', callback=_print_version, is_eager=True, help='Print the version.')
    ] = False,
) -> None:
    pass


app.command()(score.score)
app.command()(splits.splits)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(export.export)
app.command()(bench.bench)
