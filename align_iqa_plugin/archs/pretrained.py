"""Weights on disk: read safely, found in the package, unpacked from int8; what they tell of their network."""

import json
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

PACKAGED = Path(__file__).parents[1] / 'weights'
# The backbone whose weights the package carries, under timm's name for OpenAI's release
PACKAGED_BACKBONE = 'vit_base_patch16_clip_quickgelu_224'
PACKAGED_BACKBONE_FILE = PACKAGED / 'clip_vitb16_visual_int8.safetensors'
PACKAGED_MODEL_FILE = PACKAGED / 'align_iqa_agiqa3k.safetensors'
PACKAGED_MODEL_CARD = PACKAGED / 'align_iqa_agiqa3k.json'


def read_weights(path: str | Path, key: str) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file, by name; int8 tensors come back as float32.

    Args:
        path: the file; of a PyTorch file, pyiqa's ``params`` and the usual ``state_dict`` and ``model`` are looked into.
        key: the option that named it, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds more than tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{key}: there is no file {path}.')
    try:
        if path.suffix == '.safetensors':
            state = load_file(path)
        elif zipfile.is_zipfile(path):
            state = torch.load(path, 'cpu', weights_only=True)
        else:  # torch's older format, a bare pickle, is not read
            raise ValueError('neither .safetensors nor of torch.save')
    except Exception as error:  # at wrong bytes torch's safe reader fails in any way: IndexError, KeyError, struct.error ...
        raise ValueError(
            f'{key}: {path} cannot be read ({type(error).__name__}); it has to be a whole .safetensors file, or a PyTorch '
            'file of nothing but tensors.'
        ) from error
    for name in ('params', 'state_dict', 'model'):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    tensors = state.items() if isinstance(state, dict) else ()
    if not tensors or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors):
        raise ValueError(f'{key}: {path} holds no tensors by name.')
    return dequantise({name.removeprefix('module.'): value for name, value in tensors})


def read_network(path: str | Path, key: str) -> dict:
    """The keywords of `AlignIQA` that a checkpoint tells of its network; empty where it tells nothing.

    A file of `align-iqa export` tells all of them. Another tells what decides about shapes, and that no weights of the backbone
    are needed (``backbone_weights: random``) where it holds them.

    Args:
        path, key, raises: as for `read_weights`.
    """
    path = Path(path).expanduser()
    if path.suffix == '.safetensors' and path.is_file():
        try:
            with safe_open(path, 'pt') as file:  # without reading the large tensors
                network = json.loads((file.metadata() or {}).get('network', '{}'))
                state = {name: file.get_tensor(name) if name == '_extra_state' else None for name in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f'{key}: {path} cannot be read ({type(error).__name__}): it has to be a whole file.') from error
        if isinstance(network, dict) and network:
            return network
    else:
        state = read_weights(path, key)
    network = read_extra_state(state['_extra_state'])['network'] if '_extra_state' in state else {}
    return network | ({'backbone_weights': 'random'} if any(name.startswith('backbone.') for name in state) else {})


def read_extra_state(state: Tensor) -> dict:
    """What a checkpoint tells beside its tensors (`AlignIQA.get_extra_state`); ValueError where that cannot be read."""
    try:
        saved = json.loads(bytes(state.tolist()))
    except (TypeError, ValueError):
        saved = None
    kinds = {'network': dict, 'frozen': dict, 'trained': bool}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), kind) for key, kind in kinds.items()):
        raise ValueError('the checkpoint does not tell of which network it is: its _extra_state cannot be read.')
    return saved


def dequantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``(weight - zero_point) * scale`` for every int8 tensor that has a ``.scale`` and ``.zero_point`` beside it."""
    packed = {name for name in state if f'{name}.scale' in state and f'{name}.zero_point' in state}
    beside = {f'{name}.{part}' for name in packed for part in ('scale', 'zero_point')}
    return {
        name: (value.float() - state[f'{name}.zero_point'].float()) * state[f'{name}.scale'] if name in packed else value
        for name, value in state.items()
        if name not in beside
    }
