"""`align-iqa protocol`: cross-validation of a training file; `align-iqa results`: its results as a page."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail, stop
from align_iqa_plugin.runtime.files import expand_home


class Split(str, enum.Enum):  # noqa: UP042  Python 3.10 has no StrEnum
    prompt = 'prompt'
    image = 'image'
    generator = 'generator'
    ipce = 'ipce'


def protocol(
    option: Annotated[Path, typer.Argument(help='Training file (YAML).')],
    split: Annotated[
        Split,
        typer.Option(
            help='prompt: no prompt on two sides; image: prompts leak; generator: each one left out in turn; ipce: the folds '
            'by prompt of IPCE and ACL-IQA, for AGIQA-3K.'
        ),
    ] = Split.prompt,
    folds: Annotated[str | None, typer.Option(help="'1-3,7', or generators: 'AttnGAN,glide'. All of them by default.")] = None,
    output: Annotated[Path | None, typer.Option(help='Results file; results_NAME_SPLIT.json by default.')] = None,
    changes: Annotated[
        list[str] | None, typer.Option('--set', help='Change a key of the file, such as manual_seed=1; may be repeated.')
    ] = None,
) -> None:
    """Train on every fold, test each once, and write all numbers to a results file.

    Folds that the file already has are skipped, and a stopped fold resumes from its last training state: give the command
    again. Given several times at once, the commands share the folds and the results file. Folds can be spread over machines
    without a common disk; `align-iqa results` merges their files.
    """
    from align_iqa_plugin.cli.outputs import check_output
    from align_iqa_plugin.models.options import read_options
    from align_iqa_plugin.models.options_check import check_options

    try:
        options = read_options(option, changes or ())
        output = expand_home(output or f'results_{options["name"]}_{split.value}.json')
        check_output('--output', output, inputs=[option])
        check_options(options)
    except (ValueError, OSError) as error:
        fail('protocol', error)

    import align_iqa_plugin  # noqa: F401  registers, should torch's autoload be switched off
    from align_iqa_plugin.evaluation.protocol import chosen_folds, fold_columns, run_protocol
    from align_iqa_plugin.models.trainer import Interrupted, TrainingError

    try:
        choices = fold_columns(split.value, options)
        run_protocol(
            options,
            kind=split.value,
            folds=chosen_folds(folds, list(choices)),
            root=Path.cwd(),
            output=output,
            report=lambda line: typer.echo(line, err=True),
        )
    except (ValueError, FileNotFoundError) as error:
        fail('protocol', error)
    except (TrainingError, OSError) as error:
        stop('protocol', 1, error)
    except Interrupted as interrupted:
        stop('protocol', 128 + interrupted.signal, f'{interrupted} The folds before it are in {output}.')
    results([output], output=None)


def results(
    files: Annotated[list[Path], typer.Argument(help='Results files; those of one recipe and split are merged.')],
    output: Annotated[Path | None, typer.Option(help='Write the page here (Markdown) instead of to stdout.')] = None,
) -> None:
    """Print tables with median and spread, measured beside reported, and their provenance, as Markdown."""
    from align_iqa_plugin.cli.outputs import check_output
    from align_iqa_plugin.evaluation.report import results_page
    from align_iqa_plugin.runtime.atomic import atomic_write
    from align_iqa_plugin.runtime.errors import printable

    try:
        check_output('--output', output, inputs=files)
        page = '\n'.join(map(printable, results_page(files).split('\n')))
    except (ValueError, OSError) as error:
        fail('results', error)
    if output is None:
        typer.echo(page, nl=False)
        return
    try:
        atomic_write(output, page.encode())
    except OSError as error:
        stop('results', 1, error)
