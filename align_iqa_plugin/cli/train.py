"""`align-iqa train`: pyiqa's own trainer on one option file, with the current folder as root."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    option: Annotated[Path, typer.Option('--opt', '-opt', '-o', help='Training file (YAML).')],
) -> None:
    """Train from a YAML file; experiments/NAME/ under the current folder takes the log and the checkpoints."""
    import yaml

    if not option.is_file():
        _refuse(f'there is no training file {option}.')
    try:
        options = yaml.safe_load(option.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        _refuse(f'{option} is not valid YAML: {" ".join(str(error).split())}.')
    for key in ('name', 'datasets', 'network', 'train', 'val', 'logger', 'path'):
        if not isinstance(options, dict) or key not in options:
            _refuse(f"{option} lacks the key '{key}': options/train/AlignIQA/ has complete files to start from.")
    if not isinstance(options['datasets'].get('train'), dict):
        _refuse(f"{option} lacks the section 'train' under 'datasets'.")

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


def _refuse(sentence: str) -> None:
    typer.echo(f'align-iqa train: {sentence}', err=True)
    raise typer.Exit(2)
