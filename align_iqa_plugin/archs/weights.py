"""Tensors in files: read without running code, unpacked from int8; and the files that the package carries."""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from align_iqa_plugin.runtime.files import PACKAGED_NAMES, expand_home

PACKAGED = Path(__file__).parents[1] / 'weights'
# The backbone whose weights the package carries, under timm's name for OpenAI's release
PACKAGED_BACKBONE = 'vit_base_patch16_clip_quickgelu_224'
PACKAGED_BACKBONE_FILE = PACKAGED / 'clip_vitb16_visual_int8.safetensors'
PACKAGED_MODEL_FILE = PACKAGED / 'align_iqa_agiqa3k.safetensors'
PACKAGED_MODEL_CARD = PACKAGED / 'align_iqa_agiqa3k.json'
PACKAGED_FAST_FILE = PACKAGED / 'align_iqa_fast_agiqa3k.safetensors'
PACKAGED_FAST_CARD = PACKAGED / 'align_iqa_fast_agiqa3k.json'
PACKAGED_TRAINING_IMAGES = PACKAGED / 'training_images.txt'
PACKAGED_MODELS = dict(zip(PACKAGED_NAMES, (PACKAGED_MODEL_FILE, PACKAGED_FAST_FILE), strict=True))
PACKAGED_MAPS = [file.with_suffix('.map.safetensors') for file in PACKAGED_MODELS.values()]  # as models/map_fit.py names them


def weights_file(path: str | Path) -> Path:
    """The file that a path, or the name of a packaged model, stands for."""
    return PACKAGED_MODELS.get(str(path)) or expand_home(path)


def read_weights(path: str | Path, key: str) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file, by name; int8 tensors come back as float32.

    Args:
        path: the file; in a PyTorch file, the tensors may stand under ``params`` (pyiqa), ``state_dict`` or ``model``.
            'packaged' and 'packaged-fast' are the models that the package carries.
        key: the option that names it, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than tensors, or would take more memory than a file of its size.
    """
    path = weights_file(path)
    if not path.is_file():
        raise FileNotFoundError(f'{key}: there is no file {path}.')
    try:
        state: Any
        if path.suffix == '.safetensors':
            state = load_file(path)  # its reader compares the sizes in the header with the file before it makes a tensor
        elif zipfile.is_zipfile(path):
            _check_archive(path)
            state = torch.load(path, 'cpu', weights_only=True)
        else:  # torch's older format, a bare pickle, is not read
            raise ValueError('neither .safetensors nor of torch.save')
    except _Bomb as bomb:
        raise ValueError(f'{key}: {path} is not read: {bomb}.') from bomb
    except Exception as error:  # at wrong bytes torch's safe reader fails in any way: IndexError, KeyError, struct.error ...
        raise ValueError(
            f'{key}: {path} cannot be read; it has to be a whole .safetensors file, or a PyTorch file of nothing but tensors.'
        ) from error
    for name in ('params', 'state_dict', 'model'):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    tensors = state.items() if isinstance(state, dict) else ()
    if not tensors or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors):
        raise ValueError(f'{key}: {path} holds no tensors by name.')
    size = path.stat().st_size
    for name, value in tensors:
        if value.numel() * value.element_size() > size:  # a few numbers, repeated by their strides
            raise ValueError(f'{key}: {path} is not read: its tensor {name} states more numbers than it holds.')
    try:
        return dequantise({name.removeprefix('module.'): value for name, value in tensors})
    except ValueError as error:
        raise ValueError(f'{key}: {path} is not read: {error}.') from error


class _Bomb(Exception):
    """Why a file is not read: it would fill the memory."""


def _check_archive(path: Path) -> None:
    """_Bomb where a file of torch.save states more than it holds: torch.save compresses nothing, so it unpacks to its size."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > size:
            raise _Bomb(f'it unpacks to {unpacked:,} bytes, but has {size:,}: torch.save does not compress')
        for entry in entries:
            if entry.filename.endswith('data.pkl'):
                _check_pickle(archive.read(entry))


def _check_pickle(content: bytes) -> None:
    """_Bomb where a pickle calls what can make something large out of a number; torch's safe reader calls some of it."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == 'GLOBAL' and not str(argument).startswith(('torch', 'collections OrderedDict')):
            raise _Bomb(f'it calls {str(argument).replace(" ", ".")}, but has to be a file of nothing but tensors')


def backbone_state(backbone: str, weights: str) -> dict[str, Tensor] | None:
    """The weights that `backbone_weights` names, None for 'hub' and 'random', which are no files.

    Raises:
        ValueError, FileNotFoundError: as `read_weights`; or 'packaged' for another backbone than that of the package.
    """
    if weights in ('hub', 'random'):
        return None
    if weights != 'packaged':
        return read_weights(weights, 'backbone_weights')
    if backbone.split('.')[0] != PACKAGED_BACKBONE:
        raise ValueError(
            f"backbone_weights 'packaged' are those of {PACKAGED_BACKBONE}, not of {backbone}: give 'hub', 'random' or a file."
        )
    return read_weights(PACKAGED_BACKBONE_FILE, 'backbone_weights')


def dequantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``(weight - zero_point) * scale`` for every int8 tensor that has a ``.scale`` and ``.zero_point`` beside it.

    Raises:
        ValueError: these do not have a shape that fits the tensor's own.
    """
    packed = {name for name in state if f'{name}.scale' in state and f'{name}.zero_point' in state}
    beside = {f'{name}.{part}' for name in packed for part in ('scale', 'zero_point')}
    for name in packed:
        for part in ('scale', 'zero_point'):
            try:
                state[f'{name}.{part}'].expand_as(state[name])
            except RuntimeError as error:
                raise ValueError(f'the shape of {name}.{part} does not fit that of {name}') from error
    return {
        name: _unpacked(value, state[f'{name}.scale'], state[f'{name}.zero_point']) if name in packed else value
        for name, value in state.items()
        if name not in beside
    }


def _unpacked(value: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    # in place: new memory for each step takes longer than the arithmetic
    return value.to(torch.float32, copy=True).sub_(zero_point).mul_(scale)
