"""`align-iqa export`: a checkpoint as one file that needs no other weights and no training file."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail, stop
from align_iqa_plugin.runtime.files import expand_home


def export(
    checkpoint: Annotated[Path, typer.Argument(help='A checkpoint of the training, or any file that --weights takes.')],
    output: Annotated[Path, typer.Option('--output', '-o', help='The .safetensors file to write.')],
    option: Annotated[
        Path | None, typer.Option('--opt', help='The training file: its network. Not needed where only defaults are used.')
    ] = None,
) -> None:
    """Write the trained part, the frozen parts, the network and the provenance into one safetensors file.

    pyiqa.create_metric('align_iqa', pretrained_model_path=FILE) and --weights FILE then need nothing else.
    """
    from align_iqa_plugin.cli.outputs import check_output

    checkpoint, output = (expand_home(path) for path in (checkpoint, output))
    try:
        check_output('--output', output, endings=['.safetensors'], inputs=[checkpoint, option])

        from align_iqa_plugin.archs.pretrained import create_align_iqa, read_network
        from align_iqa_plugin.models.options import read_options

        given = {} if option is None else read_options(option)['network']
        given = {key: value for key, value in given.items() if key not in ('type', 'pretrained', 'pretrained_model_path')}
        recorded = read_network(checkpoint, 'pretrained_model_path')
        if 'targets' in recorded:  # all of them, not the main one alone
            given = {'targets': recorded['targets']} | given
        network = create_align_iqa(**given, pretrained_model_path=str(checkpoint))
    except (ValueError, OSError, RuntimeError) as error:
        fail('export', error)
    if not network.is_trained:
        fail('export', f"'{checkpoint}' has no trained weights.")

    from align_iqa_plugin.archs.exported import exported
    from align_iqa_plugin.runtime.atomic import atomic_write

    try:
        atomic_write(output, exported(network, recorded | given, _provenance(checkpoint, option)))
    except OSError as error:
        stop('export', 1, error)
    size, before = (path.stat().st_size / 1e6 for path in (output, checkpoint))
    typer.echo(f'{output}: {size:.1f} MB, all that is needed to score (the checkpoint has {before:.1f} MB).')


def _provenance(checkpoint: Path, option: Path | None) -> dict:
    return {
        'checkpoint': checkpoint.name,
        'checkpoint_sha256': hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        'training_file': option and option.name,
        'versions': {name: version(name) for name in ('align-iqa-plugin', 'pyiqa', 'timm', 'torch')},
    }
