"""Keeps on disk what the frozen blocks give for an image, so that training, and every further training, runs them once."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.injection import CGI, NoInjection


class FrozenCache:
    """Small files, written when an image is first seen; a run that is stopped loses none of them.

    Of every image: the outputs of the blocks before the first injection, in float16, and the vector that the untrained
    network's head reads, in float32, where that is the plain ViT's. The name of a file is a hash of the image's path, sizes
    and time of change, of the weights that were used, and of all that decides what they see; a changed image or network
    takes a new file. Several processes may fill one folder.

    Args:
        folder: where the files go: about 300 kB an image and stage for a ViT-B/16 at 224 x 224, and 25 kB for the vector.
        network: its backbone has to be frozen.
    """

    def __init__(self, folder: str | Path, network: AlignIQA):
        if not network.config['freeze_backbone']:
            raise ValueError('train.frozen_cache needs freeze_backbone: true, since a trained backbone changes in training.')
        self.folder = Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {key: network.config[key] for key in ('backbone', 'input_size', 'stages')}
        self.network = network
        first_block = network.injection.first_block
        self.stages = sum(end < first_block for end in network.backbone.stage_ends)
        # then the tokens that enter the first injection are the last stage's output, and not stored again
        self.ends_with_stage = first_block - 1 in network.backbone.stage_ends
        self.key = f'{config} {first_block} {network.frozen_parts["backbone"]}'

    def __call__(self, image: Tensor, paths: list[str]) -> tuple[list[Tensor], Tensor]:
        """What `AlignIQA.plain_blocks` gives for the images of these files, in float16's precision."""
        files = self._files(image, paths, self.key)
        arrays = [_read(file) for file in files]
        if any(array is None for array in arrays):
            # the precision of the training must not get into what later trainings read
            with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
                outputs, tokens = self.network.plain_blocks(image)
            kept = outputs if self.ends_with_stage else [*outputs, tokens]
            arrays = list(torch.stack(kept, 1).cpu().half().numpy())
            for file, array in zip(files, arrays, strict=True):
                _write(file, array)
        outputs = [_batch([array[stage] for array in arrays], image) for stage in range(self.stages)]
        return outputs, outputs[-1] if self.ends_with_stage else _batch([array[-1] for array in arrays], image)

    def start_vectors(self, image: Tensor, prompts: list[str] | None, paths: list[str]) -> Tensor:
        """What `AlignIQA.features` gives for these images before the first step, (b, d).

        It is kept where no guidance enters the network yet (CGI's gates are zero, or there is no injection), since then it
        depends on the image, the frozen blocks and the aggregation alone.
        """
        injection = self.network.injection
        closed = isinstance(injection, CGI) and not any(block.gate.any() for block in injection.blocks)
        if not closed and not isinstance(injection, NoInjection):
            return self.network.features(image, prompts, *self(image, paths))
        weights = b''.join(tensor.cpu().numpy().tobytes() for tensor in self.network.msfa.state_dict().values())
        config = {key: value for key, value in self.network.config.items() if key.startswith('aggregation')}
        key = f'vector {config} {hashlib.sha256(weights).hexdigest()} {self.key}'
        files = self._files(image, paths, key)
        arrays = [_read(file) for file in files]
        if any(array is None for array in arrays):
            arrays = list(self.network.features(image, prompts, *self(image, paths)).cpu().numpy())
            for file, array in zip(files, arrays, strict=True):
                _write(file, array)
        return _batch(arrays, image)

    def _files(self, image: Tensor, paths: list[str], key: str) -> list[Path]:
        # a data set may hand the images over smaller than their files have them
        key = f'{key} {tuple(image.shape[-2:])}'
        return [self.folder / f'{_name(key, path)}.npy' for path in paths]


def _name(key: str, path: str) -> str:
    stat = os.stat(path)
    return hashlib.sha256(f'{key} {os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}'.encode()).hexdigest()[:32]


def _batch(arrays: list[np.ndarray], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(like.device, torch.float32)


def _read(file: Path) -> np.ndarray | None:
    """None where there is no such file, or an empty or torn one, as a power cut may leave it."""
    try:
        return np.load(file)
    except (FileNotFoundError, EOFError, ValueError):
        return None


def _write(file: Path, array: np.ndarray) -> None:
    unfinished = file.with_suffix(f'.{os.getpid()}.unfinished')
    try:
        with unfinished.open('wb') as handle:
            np.save(handle, array)
        unfinished.replace(file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, f'{file} of train.frozen_cache could not be written ({error.strerror or error})') from error
