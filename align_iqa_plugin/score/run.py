"""The loop that runs a metric over image files: each image gets a score or a reason, and none costs another one its score.

    scorer = BatchScorer(metric, device)
    for result in score_images([('a.png', 'a cat'), ('b.png', None)], scorer, batch_size=16):
        print(result.index, result.score, result.reason)

`decode` reads the images, `score_images` gathers them into batches of one size, `BatchScorer` runs the metric on a batch.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import isfinite
from pathlib import Path

import numpy as np
import torch

from align_iqa_plugin.data.decode import Decoded, decode
from align_iqa_plugin.data.images import MAX_KEPT_PIXELS, batches_of_one_size
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.errors import reason_of

Metric = Callable[[torch.Tensor, list[str] | None], Sequence[float]]
"""``metric(images, prompts)`` gives n scores; images (n, 3, h, w) in [0, 1] are on the scorer's device, prompts n or None.

Where it has a method `predict`, of the same arguments, that is called instead: it gives n scores, and n deviations or None."""


@dataclass(frozen=True)
class Picture:
    """An image to be scored with a prompt (None or '': without one)."""

    index: int  # in the list that `score_images` is given
    prompt: str | None
    pixels: np.ndarray  # (h, w, 3), 8 bits
    decoded: Decoded  # without pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        height, width, _ = self.pixels.shape
        return height, width


@dataclass(frozen=True)
class Result:
    """The score of an image, or the reason why it has none."""

    index: int  # in the list that `score_images` is given
    score: float | None
    reason: str = ''
    seconds: float | None = None  # its share of the time that its batch took; None for the first batch, which warms up
    batch_size: int = 0  # images that were scored together with it, itself included
    decoded: Decoded = Decoded()  # its size, and what reading took; without pixels
    std: float | None = None  # of the error of the score, in its unit; None where the metric states none


class BatchScorer:
    """Scores images of one size together; if that fails, in halves when memory runs out, and else one by one.

    A batch that did not fit into the memory is not tried again: later ones are kept below its number of pixels. A subclass may
    choose its batches in `__call__`, and measure in `run`.

    Args:
        metric: see `Metric`.
        device: where it wants the images.

    Attributes:
        most_pixels: of a batch.
        warm: whether the metric has run without an error.
    """

    def __init__(self, metric: Metric, device: torch.device | str):
        self.metric, self.device = metric, torch.device(device)
        self.most_pixels = MAX_KEPT_PIXELS
        self.warm = False

    def __call__(self, pictures: Sequence[Picture]) -> Iterator[Result]:
        """A result for each picture, as soon as it is known. All have one size, and all have a prompt, or none has."""
        while pictures:
            count = self.fitting(pictures)
            yield from self.attempt(pictures[:count])
            pictures = pictures[count:]

    def fitting(self, pictures: Sequence[Picture]) -> int:
        """How many of these pictures, at least one, may be scored together."""
        height, width = pictures[0].size
        return min(len(pictures), max(1, self.most_pixels // (height * width)))

    def attempt(self, pictures: Sequence[Picture]) -> Iterator[Result]:
        """A result for each picture, scored together if that works, else in smaller batches."""
        try:
            scores, deviations, seconds = self.run(pictures)
        # Whatever a metric raises becomes the reason of its image; the other images go on.
        except Exception as error:
            reason, out_of_memory = f'made the metric fail: {reason_of(error)}', is_out_of_memory(error)
        else:
            share = seconds / len(pictures) if self.warm else None
            self.warm = True
            for picture, score, std in zip(pictures, scores, deviations, strict=True):
                if isfinite(score):
                    yield Result(picture.index, score, '', share, len(pictures), picture.decoded, std)
                else:
                    yield Result(picture.index, None, f'got the score {score}.', decoded=picture.decoded)
            return
        # Only here, after the except block, are the exception and the memory that its traceback holds gone.
        self.free()
        if len(pictures) == 1:
            yield Result(pictures[0].index, None, reason, decoded=pictures[0].decoded)
            return
        if out_of_memory:
            self.most_pixels = pictures[0].size[0] * pictures[0].size[1] * (len(pictures) // 2)
        while pictures:
            count = self.fitting(pictures) if out_of_memory else 1
            yield from self.attempt(pictures[:count])
            pictures = pictures[count:]

    def run(self, pictures: Sequence[Picture]) -> tuple[list[float], list[float | None], float]:
        """The scores of the pictures, their deviations, and the seconds that they took together.

        Raises:
            Exception: whatever the metric raises, and ValueError if it gives another number of scores.
        """
        batch = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2)
        prompts = [picture.prompt or '' for picture in pictures] if pictures[0].prompt else None
        self.wait()
        start = time.perf_counter()
        predict = getattr(self.metric, 'predict', None)
        images = batch.to(self.device) / 255
        scores, deviations = predict(images, prompts) if predict else (self.metric(images, prompts), None)
        self.wait()
        if len(scores) != len(pictures):
            raise ValueError(f'{counted(len(scores), "score")} for {counted(len(pictures), "image")}')
        return list(scores), list(deviations or [None] * len(scores)), time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the GPU has finished."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give memory of the GPU that is not in use back to it."""
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()


def score_images(
    images: Sequence[tuple[str | Path, str | None]],
    score_batch: Callable[[Sequence[Picture]], Iterable[Result]],
    *,
    batch_size: int,
    workers: int = 0,
    minimum_side: int = 1,
) -> Iterator[Result]:
    """One result for each image, as they come, in no order.

    Args:
        images: path or URI, that of a copy (copies.py) too, and prompt (None or '': without one). Neighbours of one path
            are read once.
        score_batch: a `BatchScorer`.
        batch_size: of images that are scored together, at most.
        workers: see `decode`.
        minimum_side: images with a smaller side get a reason.
    """
    failures: list[Result] = []

    def pictures() -> Iterator[tuple[tuple[int, int], Picture]]:
        files = [(path, [index for index, _ in group]) for path, group in groupby(enumerate(images), lambda each: each[1][0])]
        for (_, indices), decoded in zip(files, decode([path for path, _ in files], workers), strict=True):
            pixels, decoded = decoded.pixels, replace(decoded, pixels=None)
            reason = decoded.reason if pixels is None else _too_small(pixels, decoded, minimum_side)
            for index in indices:
                if pixels is None or reason:
                    failures.append(Result(index, None, reason, decoded=decoded))
                else:
                    picture = Picture(index, images[index][1], pixels, decoded)
                    yield picture.size, picture

    for batch in batches_of_one_size(pictures(), batch_size):
        yield from failures
        failures.clear()
        # a metric is given prompts for all images of a batch, or for none
        for part in ([each for each in batch if each.prompt], [each for each in batch if not each.prompt]):
            yield from score_batch(part)
    yield from failures


def is_out_of_memory(error: Exception) -> bool:
    """Whether this says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()  # the allocators of the CPU and of other devices raise a RuntimeError
    return isinstance(error, RuntimeError) and ('out of memory' in text or 'not enough memory' in text)


def _too_small(pixels: np.ndarray, decoded: Decoded, minimum_side: int) -> str:
    """The reason why an image cannot be scored; '' if it is large enough."""
    height, width, _ = pixels.shape
    if min(height, width) >= minimum_side:
        return ''
    full_width, full_height = decoded.full_size or (width, height)
    size = f'{full_width:,} x {full_height:,}'
    if (full_width, full_height) != (width, height):
        size += f', which is averaged down to {width:,} x {height:,}'
    return f'is {size} pixels; the network needs at least {minimum_side} on each side.'
