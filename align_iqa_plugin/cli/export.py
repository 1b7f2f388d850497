"""`align-iqa export`: a checkpoint as one file that needs no other weights and no training file, or as ONNX."""

import hashlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align_iqa_plugin.cli.errors import fail, stop
from align_iqa_plugin.runtime.files import expand_home

if TYPE_CHECKING:
    from align_iqa_plugin.archs.align_iqa_arch import AlignIQA


FORMATS = ('safetensors', 'onnx')


def export(
    output: Annotated[Path, typer.Option('--output', '-o', help='The .safetensors or .onnx file to write.')],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help='A checkpoint of the training, or any file that --weights takes.', show_default="the package's own weights"
        ),
    ] = None,
    option: Annotated[
        Path | None, typer.Option('--opt', help='The training file: its network. Not needed where only defaults are used.')
    ] = None,
    format: Annotated[
        str, typer.Option(help=r'safetensors, or onnx for onnxruntime and others (extra \[onnx]).')
    ] = 'safetensors',
) -> None:
    """Write a network into one file that needs nothing else.

    safetensors: the trained part, the frozen parts, the network and the
    provenance. pyiqa.create_metric('align_iqa', pretrained_model_path=FILE) and
    --weights FILE take it.

    onnx: a model from `image` (n, 3, h, w), RGB in [0, 1], float32, sides of at
    least 32 pixels, to `score` (n, k), for networks that read no prompts. It
    resizes the images itself; n, h and w are free. Its metadata name version,
    range and direction of the score, and a hash of the weights.
    """
    from align_iqa_plugin.archs.weights import PACKAGED_MODEL_FILE
    from align_iqa_plugin.cli.outputs import check_output
    from align_iqa_plugin.runtime.names import suggest

    checkpoint, output = expand_home(checkpoint or PACKAGED_MODEL_FILE), expand_home(output)
    try:
        if format not in FORMATS:
            raise ValueError(f"unknown --format '{format}'{suggest(format, FORMATS)}")
        other = output.suffix.lower().removeprefix('.')
        if other in FORMATS and other != format:
            raise ValueError(f"--output '{output}' is for --format {other}; with --format {format} it must end in .{format}.")
        check_output('--output', output, endings=[f'.{format}'], inputs=[checkpoint, option])
        if format == 'onnx' and any(find_spec(package) is None for package in ('onnx', 'onnxscript')):
            raise ValueError("--format onnx needs further packages: pip install 'align-iqa-plugin[onnx]'.")

        from align_iqa_plugin.archs.pretrained import load_align_iqa, read_network
        from align_iqa_plugin.models.options import read_options

        given = {} if option is None else read_options(option)['network']
        given = {key: value for key, value in given.items() if key not in ('type', 'pretrained', 'pretrained_model_path')}
        recorded = read_network(checkpoint, 'CHECKPOINT')
        if 'targets' in recorded:  # all of them, not the main one alone
            given = {'targets': recorded['targets']} | given
        network = load_align_iqa(checkpoint, 'CHECKPOINT', **given)
    except (ValueError, OSError, RuntimeError) as error:
        fail('export', error)
    if not network.is_trained:
        fail('export', f"'{checkpoint}' has no trained weights.")

    if format == 'onnx' and network.reads_prompts:
        fail('export', f"'{checkpoint}' is of a network that reads prompts, which ONNX cannot hold: use --format safetensors.")

    from align_iqa_plugin.archs.exported import exported
    from align_iqa_plugin.archs.onnx import onnx_model
    from align_iqa_plugin.runtime.atomic import atomic_write

    try:
        if format == 'onnx':
            content = onnx_model(network, _stated(network))
        else:
            content = exported(network, recorded | given, _provenance(checkpoint, option))
        atomic_write(output, content)
    except OSError as error:
        stop('export', 1, error)
    size, before = (path.stat().st_size / 1e6 for path in (output, checkpoint))
    typer.echo(f'{output}: {size:.1f} MB, all that is needed to score (the checkpoint has {before:.1f} MB).')


def _stated(network: 'AlignIQA') -> dict[str, str]:
    """What an ONNX file says about itself."""
    from align_iqa_plugin.archs.score_range import known_range
    from align_iqa_plugin.runtime.hashes import weights_digest

    low, high = known_range(network.score_range)
    return {
        'name': 'Align-IQA',
        'version': version('align-iqa-plugin'),
        'score_range': f'{low} to {high}',
        'higher_is_better': 'true',
        'weights': weights_digest(network),
    }


def _provenance(checkpoint: Path, option: Path | None) -> dict:
    return {
        'checkpoint': checkpoint.name,
        'checkpoint_sha256': hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        'training_file': option and option.name,
        'versions': {name: version(name) for name in ('align-iqa-plugin', 'pyiqa', 'timm', 'torch')},
    }
