"""`align-iqa train`: pyiqa's own trainer on one option file, with the current folder as root."""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import refuse

_refuse = partial(refuse, 'train')


def train(
    option: Annotated[Path, typer.Option('--opt', '-opt', '-o', help='Training file (YAML).')],
    changes: Annotated[
        list[str] | None, typer.Option('--set', help='Change a key of the file, such as train.optim.lr=1e-4; may be repeated.')
    ] = None,
) -> None:
    """Train from a YAML file; experiments/NAME/ under the current folder takes the log and the checkpoints."""
    from align_iqa_plugin.options import check_options, read_options

    try:
        checked = read_options(option, changes or ())
        check_options(checked)
    except ValueError as error:
        _refuse(str(error))

    import yaml
    from pyiqa.train import train_pipeline
    from pyiqa.utils.options import parse_options

    import align_iqa_plugin  # noqa: F401  registers, should torch's autoload be switched off

    root = str(Path.cwd())
    try:
        with TemporaryDirectory() as folder:
            # pyiqa reads its options from a file that the command line names, and keeps a copy of that file
            changed = Path(folder) / option.name
            changed.write_text(yaml.safe_dump(checked, sort_keys=False), encoding='utf-8')
            sys.argv = [sys.argv[0], '-opt', str(changed)]
            options, arguments = parse_options(root)
            best = train_pipeline(root, options, arguments)
    except (ValueError, FileNotFoundError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        typer.echo(f'stopped; what was saved is in experiments/{options["name"]}/models.', err=True)
        raise typer.Exit(130) from None
    for dataset, metrics in best.items():
        scores = ', '.join(f'{name} {result["val"]:.4f}' for name, result in metrics.items())
        typer.echo(f'{dataset}: {scores} (best, at iteration {next(iter(metrics.values()))["iter"]})')
