"""`align-iqa export`: a checkpoint as one file that needs no other weights and no training file."""

import hashlib
import json
import os
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail

_fail = partial(fail, 'export')


def export(
    checkpoint: Annotated[Path, typer.Argument(help='A checkpoint of the training, or any file that --weights takes.')],
    output: Annotated[Path, typer.Option('--output', '-o', help='The .safetensors file to write.')],
    option: Annotated[
        Path | None, typer.Option('--opt', help='The training file: its network. Not needed where only defaults are used.')
    ] = None,
) -> None:
    """Write trained part, frozen parts, network and provenance into one safetensors file.

    pyiqa.create_metric('align_iqa', pretrained_model_path=FILE) and --weights FILE then need nothing else.
    """
    if output.suffix != '.safetensors':
        _fail(f"--output '{output}' must end in .safetensors.")
    if not output.resolve().parent.is_dir():
        _fail(f"--output '{output}': there is no folder '{output.parent}'; create it first.")
    if output.exists() and checkpoint.exists() and output.samefile(checkpoint):
        _fail(f"--output '{output}' would overwrite the checkpoint; give it another name.")

    from safetensors.torch import save_file

    from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
    from align_iqa_plugin.archs.pretrained import read_network
    from align_iqa_plugin.models.options import read_options

    try:
        network = {} if option is None else read_options(option)['network']
        network = {key: value for key, value in network.items() if key not in ('type', 'pretrained', 'pretrained_model_path')}
        told = read_network(checkpoint, 'pretrained_model_path')
        network = {key: told[key] for key in told.keys() & {'targets'}} | network  # all of them, not the main one alone
        net = AlignIQA(**network, pretrained_model_path=str(checkpoint))
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        _fail(str(error))
    if not net.is_trained:
        _fail(f"'{checkpoint}' has no trained weights.")

    metadata = {
        'format': 'pt',
        'network': json.dumps(_network(net, told | network), sort_keys=True),
        'provenance': json.dumps(
            {
                'checkpoint': checkpoint.name,
                'checkpoint_sha256': hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
                'training_file': option and option.name,
                'versions': {name: version(name) for name in ('align-iqa-plugin', 'pyiqa', 'timm', 'torch')},
            },
            sort_keys=True,
        ),
    }
    state = {name: tensor.contiguous() for name, tensor in net.whole_state().items()}
    unfinished = output.with_name(f'.{output.name}.{os.getpid()}.part')
    try:
        save_file(state, unfinished, metadata)
        os.replace(unfinished, output)
    except OSError as error:
        _fail(f"--output '{output}' cannot be written: {error.strerror or error}.")
    finally:
        unfinished.unlink(missing_ok=True)
    size, before = (path.stat().st_size / 1e6 for path in (output, checkpoint))
    typer.echo(f'{output}: {size:.1f} MB, all that is needed to score (the checkpoint has {before:.1f} MB).')


def _network(net, given: dict) -> dict:
    """The keywords that build `net` again from nothing but the file."""
    tag = net.backbone.vit.pretrained_cfg['tag']  # which mean and deviation images are normalised by depends on it
    network = net.config | {'backbone_weights': 'random'}
    network['backbone'] += f'.{tag}' if tag else ''
    if given.get('guide_options'):
        network['guide_options'] = given['guide_options']
    if 'guide.vlm' in net.frozen_parts:
        network['guide_options'] = network.get('guide_options', {}) | {'vlm_weights': 'random'}
    return network
