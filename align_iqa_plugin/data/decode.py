"""Decodes image files, in worker processes if wanted: each gives its pixels, or the reason why there are none."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from align_iqa_plugin.data.copies import is_copy, read_copy
from align_iqa_plugin.data.images import DIED, ImageError, read_image
from align_iqa_plugin.runtime.worker_pool import map_in_processes


@dataclass(frozen=True)
class Decoded:
    """An image as it was read; if it has no pixels, `reason` says why."""

    pixels: np.ndarray | None = None  # (h, w, 3), 8 bits
    full_size: tuple[int, int] | None = None  # width and height in the file; `pixels` of a huge image are averaged down
    seconds: float | None = None  # that reading took; None for a copy (copies.py), which is made
    reason: str = ''


def decode(paths: Sequence[str | Path], workers: int = 0) -> Iterator[Decoded]:
    """Each image, in order; one that cannot be read, or that ends the process that reads it, has a reason instead of pixels.

    Args:
        paths: of the images, or their URIs, those of copies (copies.py) too.
        workers: processes that decode; with 0, this process does, and an image that crashes its decoder ends it.
    """
    if not workers:
        yield from map(_read, paths)
        return
    for decoded in map_in_processes(_read, paths, workers):
        yield Decoded(reason=DIED) if decoded is None else decoded


def _read(path: str | Path) -> Decoded:
    start = time.perf_counter()
    try:
        image = read_copy(str(path)) if is_copy(path) else read_image(path)
    except ImageError as error:
        return Decoded(reason=str(error).removeprefix(f"'{path}' "))
    seconds = None if is_copy(path) else time.perf_counter() - start  # to make a copy takes longer than to read a file
    return Decoded(np.array(image), image.info['full_size'], seconds)
