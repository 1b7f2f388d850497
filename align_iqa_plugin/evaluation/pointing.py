"""Does a quality map point? How often its lowest cell is in the one part of a good image that was degraded.

`ALIGN_IQA_DATA=FOLDER pytest -m 'slow and data' -s tests/evaluation/test_pointing.py` measures it (docs/explain.md).
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from align_iqa_plugin.data.degradations import degrade

KINDS = ('blur', 'noise', 'jpeg', 'resize')
LEVEL = 3
CHANCE = 1 / 9  # the part of the image that is degraded: a third of either side


class Case(NamedTuple):
    """An image with a part of it degraded."""

    image: Image.Image
    kind: str
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels


def good_images(paths: Sequence[str], mos: Sequence[float], count: int, *, above: float, seed: int) -> list[str]:
    """`count` of the images whose MOS is above this one, at random."""
    good = sorted(path for path, value in zip(paths, mos, strict=True) if value > above)
    return random.Random(seed).sample(good, count)


def cases(image: Image.Image, name: str) -> Iterator[Case]:
    """The image with a ninth of it, at a place that depends on the name and on the kind, degraded in each of `KINDS`."""
    width, height = image.width // 3, image.height // 3
    for kind in KINDS:
        place = random.Random(f'{name} {kind}')
        left, top = place.randint(0, image.width - width), place.randint(0, image.height - height)
        box = (left, top, left + width, top + height)
        changed = image.copy()
        changed.paste(degrade(image, kind, LEVEL).crop(box), box)
        yield Case(changed, kind, box)


def points_at(quality: np.ndarray, case: Case) -> bool:
    """Whether the centre of the lowest cell of the map (rows, columns) is in the part that was degraded."""
    row, column = np.unravel_index(quality.argmin(), quality.shape)
    x = (column + 0.5) * case.image.width / quality.shape[1]
    y = (row + 0.5) * case.image.height / quality.shape[0]
    left, top, right, bottom = case.box
    return bool(left <= x < right and top <= y < bottom)


def pointing(images: Iterable[tuple[str, Image.Image]], map_of: Callable[[Image.Image], np.ndarray]) -> dict[str, list[bool]]:
    """By kind, for each image, whether the map points at the degraded part."""
    found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for name, image in images:
        for case in cases(image, name):
            found[case.kind].append(points_at(map_of(case.image), case))
    return found
