"""`align-iqa train`: one option file, with the current folder as root."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import stop

_stop = partial(stop, 'train')


def train(
    option: Annotated[Path, typer.Option('--opt', '-opt', '-o', help='Training file (YAML).')],
    resume: Annotated[
        bool, typer.Option('--resume', help='Go on with the experiment of this name, as if it had not been stopped.')
    ] = False,
    changes: Annotated[
        list[str] | None, typer.Option('--set', help='Change a key of the file, such as train.optim.lr=1e-4; may be repeated.')
    ] = None,
    resolve: Annotated[
        Path | None,
        typer.Option(help='Write the file with its _base_ merged in, for python -m pyiqa.train -opt, and train nothing.'),
    ] = None,
) -> None:
    """Train from a YAML file; experiments/NAME/ under the current folder takes the log and the checkpoints.

    Without --resume an experiment of the same name is renamed. Several GPUs: torchrun --nproc-per-node N -m
    align_iqa_plugin.cli train --opt FILE. Ctrl-C and SIGTERM save before they stop.
    """
    from align_iqa_plugin.cli.outputs import check_output
    from align_iqa_plugin.models.options import read_options
    from align_iqa_plugin.models.options_check import check_options
    from align_iqa_plugin.models.options_file import write_file

    try:
        check_output('--resolve', resolve, inputs=[option])
        options = read_options(option, changes or ())
        if resolve is not None:
            write_file(options, resolve)
            return
        check_options(options)
    except (ValueError, OSError) as error:
        _stop(2, error)

    import align_iqa_plugin  # noqa: F401  registers, should torch's autoload be switched off
    from align_iqa_plugin.models import trainer as training

    try:
        best = training.train(options, root=Path.cwd(), resume=resume)
    except (ValueError, FileNotFoundError) as error:
        _stop(2, error)
    except (training.TrainingError, OSError) as error:
        _stop(1, error)
    except training.Interrupted as interrupted:
        _stop(128 + interrupted.signal, str(interrupted))
    # the processes of torchrun no longer belong together here, but they still have their numbers
    for dataset, metrics in best.items() if os.environ.get('RANK', '0') == '0' else ():
        scores = ', '.join(f'{name} {result["val"]:.4f}' for name, result in metrics.items())
        typer.echo(f'{dataset}: {scores} (best, at iteration {next(iter(metrics.values()))["iter"]})')
