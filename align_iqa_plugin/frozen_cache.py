"""Keeps on disk what the frozen blocks before the first injection give for an image, so that training runs them once."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .align_iqa_arch import AlignIQA


class FrozenCache:
    """One float16 file an image, written when it is first seen; a run that is stopped loses none of them.

    The name of a file is a hash of the image's path, size and time of change, of the frozen weights, and of all that decides
    what the blocks see; a changed image or network takes a new file. Two processes may fill one folder.

    Args:
        folder: where the files go: about 300 kB an image and stage for a ViT-B/16 at 224 x 224.
        network: its backbone has to be frozen.
    """

    def __init__(self, folder: str | Path, network: AlignIQA):
        if not network.config['freeze_backbone']:
            raise ValueError('train.frozen_cache needs freeze_backbone: true, since a trained backbone changes in training.')
        self.folder = Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {key: network.config[key] for key in ('backbone', 'input_size', 'stages')}
        self.network = network
        self.key = f'{config} {network.injection.first_block} {network.frozen_parts["backbone"]}'

    def __call__(self, image: Tensor, paths: list[str]) -> tuple[list[Tensor], Tensor]:
        """What `AlignIQA.plain_blocks` gives for the images of these files, in float16's precision."""
        files = [self._file(path) for path in paths]
        if not all(file.exists() for file in files):
            with torch.no_grad():
                outputs, tokens = self.network.plain_blocks(image)
            for file, *arrays in zip(files, *outputs, tokens, strict=True):
                _write(file, torch.stack(arrays).cpu().half().numpy())
        stacked = torch.from_numpy(np.stack([np.load(file) for file in files])).to(image.device, torch.float32)
        *outputs, tokens = stacked.unbind(1)
        return outputs, tokens

    def _file(self, path: str) -> Path:
        stat = os.stat(path)
        name = hashlib.sha256(f'{self.key} {os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}'.encode()).hexdigest()
        return self.folder / f'{name[:32]}.npy'


def _write(file: Path, array: np.ndarray) -> None:
    unfinished = file.with_suffix(f'.{os.getpid()}.unfinished')
    with unfinished.open('wb') as handle:
        np.save(handle, array)
    unfinished.replace(file)
