"""`align-iqa train`: pyiqa's own trainer on one option file, with the current folder as root."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    option: Annotated[Path, typer.Option('--opt', '-opt', '-o', help='Training file (YAML).')],
) -> None:
    """Train from a YAML file; experiments/NAME/ under the current folder takes the log and the checkpoints."""
    try:
        read_options(option)
    except ValueError as error:
        _refuse(str(error))

    from pyiqa.train import train_pipeline
    from pyiqa.utils.options import parse_options

    import align_iqa_plugin  # noqa: F401  registers, should torch's autoload be switched off

    root = str(Path.cwd())
    # pyiqa reads its options from the command line
    sys.argv = [sys.argv[0], '-opt', str(option)]
    options, arguments = parse_options(root)
    try:
        best = train_pipeline(root, options, arguments)
    except (ValueError, FileNotFoundError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        typer.echo(f'stopped; what was saved is in experiments/{options["name"]}/models.', err=True)
        raise typer.Exit(130) from None
    for dataset, metrics in best.items():
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


def _refuse(sentence: str) -> None:
    typer.echo(f'align-iqa train: {sentence}', err=True)
    raise typer.Exit(2)
