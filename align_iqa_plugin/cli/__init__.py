"""The `align-iqa` command: one file a sub-command, each with one function of the file's name.

Nothing heavy is imported here, so that help is quick: torch and pyiqa are imported inside the functions that need them.
"""

from typing import Annotated

import typer

from align_iqa_plugin import __version__
from align_iqa_plugin.cli import bench, compare, data, doctor, evaluate, explain, export, fit, protocol, score, train
from align_iqa_plugin.cli.many_values import ManyValues
from align_iqa_plugin.cli.outputs import show_any_character

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
    show_any_character()


app.command()(score.score)
app.add_typer(data.commands, name='data')
app.command()(train.train)
app.command()(fit.fit)
app.command()(protocol.protocol)
app.command()(protocol.results)
app.command()(evaluate.evaluate)
app.command(cls=ManyValues)(compare.compare)
app.command()(explain.explain)
app.command()(export.export)
app.command()(bench.bench)
app.command()(doctor.doctor)
