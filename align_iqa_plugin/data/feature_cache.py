"""Keeps on disk what the head reads of an image, so that every further fit of a head costs seconds and decodes no picture."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.injection import BottleneckCrossAttention
from align_iqa_plugin.archs.pretrained import frozen_digests
from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.runtime.hashes import state_digest


class FeatureCache:
    """Features by image file: `AlignIQA.forward_features` of an image where nothing that is trained has changed it.

    A file for each image (25 kB for four stages of a ViT-B/16), written as soon as it is there. Its name is a hash of the
    image's path, size and time of change, and of all that the features depend on; a changed image or network takes a new file.
    Several processes may fill one folder.

    Args:
        folder: where the files go; it is made if it does not exist.
        network: as it is before training; its backbone has to be frozen.

    Raises:
        ValueError: the backbone is trained.
    """

    def __init__(self, folder: str | Path, network: AlignIQA):
        if not network.config['freeze_backbone']:
            raise ValueError('train.frozen_cache needs freeze_backbone: true, since a trained backbone changes its features.')
        self.folder = Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ('backbone', 'input_size', 'stages', 'aggregation', 'aggregation_options')
        config = {name: network.config[name] for name in names}
        weights = [frozen_digests(network)['backbone'], state_digest(network.msfa.state_dict())]
        self.key = f'{config} {weights}'

    def read(self, path: str, view: str = '') -> Tensor | None:
        """The features of an image, (f,); None where they are not there, or the file was damaged by a power cut.

        Args:
            view: what, beside its file, decides what the network sees of the image, such as the size at which it is read.
        """
        try:
            return torch.from_numpy(np.load(self._file(path, view), allow_pickle=False))
        except (FileNotFoundError, EOFError, ValueError):
            return None

    def write(self, path: str, features: Tensor, view: str = '') -> None:
        """Keep the features of an image, (f,); arguments as of `read`.

        Raises:
            OSError: they cannot be written, for example because the disk is full.
        """
        with atomic_file(self._file(path, view), durable=False) as part, part.open('wb') as file:
            np.save(file, features.detach().float().cpu().numpy())

    def _file(self, path: str, view: str) -> Path:
        stat = os.stat(path)
        name = f'{self.key} {view} {os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}'
        return self.folder / f'{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.npy'


def has_frozen_features(network: AlignIQA) -> bool:
    """Whether features depend on the frozen backbone alone: nothing is injected, or all gates of CGI are zero."""
    if network.injection is None:
        return True
    gates = [layer.gate for layer in network.injection.values() if isinstance(layer, BottleneckCrossAttention)]
    return bool(gates) and not any(gate.any() for gate in gates)
