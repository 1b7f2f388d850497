"""Copies of some images of a data set: degraded ones, which should score lower, and changed ones, which should score alike.

The first teach a head order without any rating (`train.order_share` of an option file), the others what changes nothing
(`train.invariance_share`). Which images have copies, and at which level, follows from the file's name alone, so that all
splits of a data set share the copies.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from torch.utils.data import Dataset

from align_iqa_plugin.data.degradations import BLANKS, CHANGES, LEVELS, blank, degrade

LOST = (0.05, 0.15, 0.3, 0.45)
"""What a degraded copy should lose at levels 1 to 4, at least: the share of what its image scores above the worst
(models/fit.py). Ours."""

UNMOVED = ('flip', 'crop 4', 'WebP 85')
"""The changes whose copies score as their image does."""


class TrainingCopy(NamedTuple):
    """A copy of an image.

    Attributes:
        image: its index in the data set.
        name: what was done to it, such as 'blur 2', 'flip' or 'black'.
        lost: the share of the image's score above the worst that the copy should lose at least, 0 to 1; 0 is exact.
        seed: of the noise.
    """

    image: int
    name: str
    lost: float
    seed: int

    def make(self, picture: Image.Image) -> Image.Image:
        """The copy, at the size of the picture, so that all may share a batch."""
        kind, _, level = self.name.rpartition(' ')
        if kind in LEVELS:
            return degrade(picture, kind, int(level), self.seed)
        if self.name in BLANKS:
            return blank(picture.size, self.name, self.seed)
        copy = CHANGES[self.name](picture)
        return copy if copy.size == picture.size else copy.resize(picture.size, Image.Resampling.BICUBIC)


class Copies(Dataset):
    """Copies of a share of the images of a data set, as samples of that data set with the labels of their images.

    Args:
        dataset: an `AIGCIQADataset` without augmentation.
        order_share: of its images, 0 to 1, of which there is one copy of every kind of degradation, at a level drawn at random,
            and a picture of nothing in its place.
        invariance_share: of its images, 0 to 1, of which there are the copies of `UNMOVED`.

    Attributes:
        copies: those that lose something first.
        ordered: how many these are.
    """

    def __init__(self, dataset: BaseIQADataset, order_share: float, invariance_share: float):
        self.dataset, self.opt = dataset, dataset.opt
        degraded: list[TrainingCopy] = []
        harmless: list[TrainingCopy] = []
        for image, path in enumerate(dataset.paths):
            number = _drawn(path, 'copied') / 2**32
            copies = _copies_of(image, path)
            if number < order_share:
                degraded += [copy for copy in copies if copy.lost]
            if number < invariance_share:
                harmless += [copy for copy in copies if not copy.lost]
        self.copies, self.ordered = degraded + harmless, len(degraded)

    def __len__(self) -> int:
        return len(self.copies)

    def __getitem__(self, place: int) -> dict:
        copy = self.copies[place]
        return self.dataset.sample(copy.image, copy.make)

    @property
    def paths(self) -> list[str]:
        """The image of each copy."""
        paths = self.dataset.paths
        return [paths[copy.image] for copy in self.copies]

    def view(self, place: int) -> str:
        """As of the data set."""
        copy = self.copies[place]
        return f'{self.dataset.view(copy.image)} {copy.name}'

    def check_images(self, places: Iterable[int]) -> None:
        """As of the data set."""
        self.dataset.check_images(sorted({self.copies[place].image for place in places}))


def copy_of(image: int, path: str) -> TrainingCopy:
    """One of the copies of an image, drawn by its file's name."""
    copies = _copies_of(image, path)
    return copies[_drawn(path, 'copy') % len(copies)]


def _copies_of(image: int, path: str) -> list[TrainingCopy]:
    levels = {kind: _drawn(path, kind) % len(LEVELS[kind]) + 1 for kind in LEVELS}
    lost = {f'{kind} {level}': LOST[level - 1] for kind, level in levels.items()}
    lost |= dict.fromkeys(UNMOVED, 0.0)
    lost[BLANKS[_drawn(path, 'blank') % len(BLANKS)]] = 1.0
    return [TrainingCopy(image, name, share, seed=_drawn(path, 'noise')) for name, share in lost.items()]


def _drawn(path: str, purpose: str) -> int:
    """A number of 32 bits that follows from a file's name."""
    return int(hashlib.sha256(f'{purpose} {Path(path).name}'.encode()).hexdigest()[:8], 16)
