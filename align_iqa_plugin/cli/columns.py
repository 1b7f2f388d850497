"""The options that name the columns of a table of labels, alike in every command that reads one."""

from typing import Annotated

import typer

ImageColumn = Annotated[str | None, typer.Option(help='Column of file names; by default as released, or the first.')]
ScoreColumn = Annotated[str | None, typer.Option(help='Column of scores; by default as released, or the second.')]
PromptColumn = Annotated[
    str | None, typer.Option(help="Column of prompts; '' for data without prompts.", show_default='prompt')
]
GeneratorColumn = Annotated[
    str | None, typer.Option(help='Column of the names of generators.', show_default='generator, where there is one')
]
