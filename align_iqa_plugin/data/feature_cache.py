"""Keeps on disk what a frozen network makes of images: the features that a head reads, and the outputs of the first blocks."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.injection import BottleneckCrossAttention
from align_iqa_plugin.archs.pretrained import frozen_digests
from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.runtime.files import expand_home
from align_iqa_plugin.runtime.hashes import state_digest


class _Cache:
    """Arrays by image file, written as soon as they are there.

    The name of a file is a hash of the image's bytes and of all else that the array depends on, so a changed image or network
    takes a new file, and a folder may move with its data set to another machine. Several processes may fill one folder.
    """

    dtype: type[np.floating] = np.float32

    def __init__(self, folder: str | Path, key: str):
        self.folder = expand_home(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = key
        self._contents: dict[str, str] = {}  # by path: a data set does not change while it is read

    def read(self, path: str, view: str = '') -> Tensor | None:
        """The array of an image; None where it is not there, or the file was damaged by a power cut.

        Args:
            view: what, beside its file, decides what the network sees of the image, such as the size at which it is read.
        """
        try:
            return torch.from_numpy(np.load(self._file(path, view), allow_pickle=False))
        except (FileNotFoundError, EOFError, ValueError):
            return None

    def write(self, path: str, array: Tensor, view: str = '') -> None:
        """Keep the array of an image; arguments as of `read`.

        Raises:
            OSError: it cannot be written, for example because the disk is full.
        """
        with atomic_file(self._file(path, view), durable=False) as part, part.open('wb') as file:
            np.save(file, array.detach().float().cpu().numpy().astype(self.dtype))

    def _file(self, path: str, view: str) -> Path:
        if path not in self._contents:
            self._contents[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        name = f'{self.key} {view} {self._contents[path]}'
        return self.folder / f'{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy'


class FeatureCache(_Cache):
    """`AlignIQA.forward_features` of images, (f,), 25 kB for four stages of a ViT-B/16: a further fit of a head costs seconds.

    Args:
        folder: where the files go; it is made if it does not exist.
        network: its backbone has to be frozen. Call `follow` when the other parts have changed.

    Raises:
        ValueError: the backbone is trained.
    """

    def __init__(self, folder: str | Path, network: AlignIQA):
        if not network.config['freeze_backbone']:
            raise ValueError('train.frozen_cache needs freeze_backbone: true, since a trained backbone changes its features.')
        names = ('backbone', 'input_size', 'stages', 'aggregation', 'aggregation_options')
        self._config = {name: network.config[name] for name in names}
        if network.views > 1:  # so that the files of networks of one view keep their names
            self._config['views'] = network.views
        if network.guided_views < network.views:
            self._config['guided_views'] = network.guided_views
        self._backbone = frozen_digests(network)['backbone']
        super().__init__(folder, '')
        self.follow(network)

    def follow(self, network: AlignIQA) -> None:
        """Keep the features of the network as it is now."""
        weights = [self._backbone, state_digest(network.msfa.state_dict())]
        if not injects_nothing(network):
            weights += [f'{network.config["injection"]} {network.config["injection_options"]}']
            weights += [state_digest(part.state_dict()) for part in (network.guide, network.injection) if part]
        self.key = f'{self._config} {weights}'


class TrunkCache(_Cache):
    """Outputs of the blocks before the first that guidance enters, (blocks, n, d), in half precision: 0.9 MB for three.

    Of a network without guidance, those of all stages. A training then runs these blocks once for each image.

    Args:
        folder: where the files go; it is made if it does not exist.
        network: with a frozen backbone, and no injection before its first block.

    Raises:
        ValueError: there is nothing before the first injection, it is trained, or the network has two views.
    """

    dtype = np.float16

    def __init__(self, folder: str | Path, network: AlignIQA):
        if not network.config['freeze_backbone'] or (network.injection is not None and 0 in network.injection.blocks):
            raise ValueError('train.trunk_cache needs a frozen backbone, and no guidance that enters before its first block.')
        if network.views > 1:
            raise ValueError('train.trunk_cache needs network.views: 1.')
        self.blocks = network.backbone.trunk_blocks(network.injection)
        names = {name: network.config[name] for name in ('backbone', 'input_size')}
        super().__init__(folder, f'trunk {self.blocks} {names} {frozen_digests(network)["backbone"]}')

    @torch.no_grad()
    def outputs(self, network: AlignIQA, images: Tensor, paths: Sequence[str], views: Sequence[str]) -> dict[int, Tensor]:
        """What `GuidedViT.forward_from` goes on from, for a batch of images and what they are read from."""
        found = [self.read(path, view) for path, view in zip(paths, views, strict=True)]
        missing = [place for place, array in enumerate(found) if array is None]
        if missing:
            computed = torch.stack([*network.backbone.trunk(images[missing], self.blocks).values()], 1)
            for place, array in zip(missing, computed, strict=True):
                self.write(paths[place], array, views[place])
                found[place] = array.half()  # as it will be read
        stacked = torch.stack([array.to(images.device).float() for array in found if array is not None])
        return dict(zip(self.blocks, stacked.unbind(1), strict=True))


def depends_on_image_alone(network: AlignIQA) -> bool:
    """Whether features do not depend on a prompt."""
    return injects_nothing(network) or not network.reads_prompts


def injects_nothing(network: AlignIQA) -> bool:
    """Whether features are those of the frozen backbone: there is no injection, or all gates of CGI are zero."""
    if network.injection is None:
        return True
    gates = [layer.gate for layer in network.injection.values() if isinstance(layer, BottleneckCrossAttention)]
    return bool(gates) and not any(gate.any() for gate in gates)
