"""`align-iqa train`: one option file, with the current folder as root."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer


def train(
    option: Annotated[Path, typer.Option('--opt', '-opt', '-o', help='Training file (YAML).')],
    resume: Annotated[
        bool, typer.Option('--resume', help='Go on with the experiment of this name, exactly as if it had not been stopped.')
    ] = False,
) -> None:
    """Train from a YAML file; experiments/NAME/ under the current folder takes the log and the checkpoints.

    Without --resume an experiment of the same name is renamed. Several GPUs: torchrun --nproc-per-node N -m
    align_iqa_plugin.cli train --opt FILE. Ctrl-C and SIGTERM save before they stop.
    """
    try:
        options = read_options(option)
    except ValueError as error:
        _stop(2, str(error))

    import align_iqa_plugin  # noqa: F401  registers, should torch's autoload be switched off
    from align_iqa_plugin import data_parallel, training

    try:
        best = training.train(options, root=Path.cwd(), resume=resume)
    except (ValueError, FileNotFoundError) as error:
        _stop(2, str(error))
    except training.TrainingError as error:
        _stop(1, str(error))
    except training.Interrupted as interrupted:
        _stop(128 + interrupted.signal, str(interrupted))
    for dataset, metrics in best.items() if data_parallel.rank() == 0 else ():
        scores = ', '.join(f'{name} {result["val"]:.4f}' for name, result in metrics.items())
        typer.echo(f'{dataset}: {scores} (best, at iteration {next(iter(metrics.values()))["iter"]})')


def read_options(path: Path) -> dict:
    """A training file as plain data; ValueError with one sentence where it cannot be one."""
    import yaml

    if not path.is_file():
        raise ValueError(f'there is no training file {path}.')
    try:
        # before pyiqa reads it, whose loader would run code in it
        options = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not valid YAML: {" ".join(str(error).split())}.') from error
    for key in ('name', 'datasets', 'network', 'train', 'val', 'logger', 'path'):
        if not isinstance(options, dict) or key not in options:
            raise ValueError(f"{path} lacks the key '{key}': options/train/AlignIQA/ has complete files to start from.")
    if not isinstance(options['datasets'], dict) or not isinstance(options['datasets'].get('train'), dict):
        raise ValueError(f"{path} lacks the section 'train' under 'datasets'.")
    return options


def _stop(status: int, sentence: str) -> NoReturn:
    typer.echo(f'align-iqa train: {sentence}', err=True)
    raise typer.Exit(status)
