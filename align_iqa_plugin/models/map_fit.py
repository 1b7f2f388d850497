"""The direction of a network's quality maps, fitted to pictures and degraded copies of them, and its file."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import trunk_digest
from align_iqa_plugin.archs.quality_map import MapFit
from align_iqa_plugin.archs.score_range import known_range
from align_iqa_plugin.archs.weights import PACKAGED_MAPS
from align_iqa_plugin.data.degradations import LEVELS, degrade
from align_iqa_plugin.data.images import read_image
from align_iqa_plugin.runtime.atomic import atomic_write

LEAST = 20  # pictures
STRENGTHS = (2, 4)  # the levels of copies, drawn by the name of the file


def fit_map(
    network: AlignIQA, paths: Sequence[str | Path], *, device: torch.device, advance: Callable[[], None] = lambda: None
) -> Float[Tensor, ' f']:
    """Fit the direction of the maps, in the unit of the network's score. Of each picture there are five degraded copies.

    Args:
        network: trained, in evaluation mode, on the device.
        paths: of good pictures, at least `LEAST`, of content like that of the images to explain.
        advance: is called after each picture.

    Raises:
        ValueError: there are too few pictures, one cannot be read or is too small, or the copies do not score lower.
    """
    if len(paths) < LEAST:
        raise ValueError(f'a map is fitted to at least {LEAST} pictures, but there are {len(paths)}.')
    fit = MapFit(network)
    for path in paths:
        picture = read_image(path)
        levels = {kind: random.Random(f'{Path(path).name} {kind}').randint(*STRENGTHS) for kind in LEVELS}
        image, *copies = (
            to_tensor(each)[None].to(device)
            for each in (picture, *(degrade(picture, kind, level) for kind, level in levels.items()))
        )
        try:
            fit.add(image, copies)
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from error
        advance()
    return fit.direction()


def map_file(weights: Path) -> Path:
    """The file of the map beside a file of weights."""
    return weights.with_suffix('.map.safetensors')


def save_map(path: Path, network: AlignIQA, direction: Float[Tensor, ' f']) -> None:
    """Write a direction, in shares of the range of scores, so that it serves every head on the same trunk.

    Raises:
        OSError: the file cannot be written.
    """
    low, high = known_range(network.score_range)
    tensors = {'direction': (direction / (high - low)).cpu().contiguous()}
    atomic_write(path, save(tensors, {'format': 'pt', 'trunk': trunk_digest(network)}))


def read_map(network: AlignIQA, weights: Path | None) -> Float[Tensor, ' f']:
    """The direction for the maps of a network, in the unit of its score: the one beside its weights, or one of the package.

    Args:
        weights: the file that the network is of; None for a packaged one.

    Raises:
        ValueError: there is none for this network, or its file is damaged.
    """
    trunk = trunk_digest(network)
    low, high = known_range(network.score_range)
    for path in (weights and map_file(weights), *PACKAGED_MAPS):
        if path is None or not path.is_file():
            continue
        try:
            with safe_open(path, 'pt') as file:
                if (file.metadata() or {}).get('trunk') == trunk:
                    return file.get_tensor('direction') * (high - low)
        except (SafetensorError, OSError) as error:
            way_out = 'reinstall align-iqa-plugin' if path in PACKAGED_MAPS else 'fit the map again with --learn-from'
            raise ValueError(f'{path} cannot be read: {way_out}.') from error
    raise ValueError(
        f'no map was fitted for these weights: add --learn-from FOLDER, with at least {LEAST} good pictures. That is done once.'
    )
