"""Scores the images of a data set with one metric into the store: in batches where that changes nothing, each score at once.

An image that cannot be decoded or scored, and a score that is no finite number, become a reason in the store; the others go on.
"""

import ctypes
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from align_iqa_plugin.compare.store import Configuration, Pending, Result, Store
from align_iqa_plugin.data.images import MAX_KEPT_PIXELS, ImageError, batches_of_one_size, read_image
from align_iqa_plugin.runtime.errors import reason_of

CHECKED = 4  # images by which it is decided whether a metric may be given batches
TOLERANCE = 1e-4  # of a score: what the order of summation in a batch changes stays well below
FEW = 32  # images for which starting workers costs more time than it saves


class ScoringMetric(Protocol):
    """What `Scorer` needs of a metric; `metrics.Metric` is one."""

    configuration: Configuration
    device: torch.device

    def __call__(self, images: torch.Tensor, prompts: Sequence[str] | None) -> list[float]: ...


class PeakMemory:
    """Memory that a metric needs, in MB (10^6 bytes), counted from when this is made: make it before the metric is loaded.

    On a GPU it is what torch allocates there; on the CPU the growth of the process (Linux only, elsewhere it is not known).
    """

    def __init__(self, device: torch.device):
        self.device = device
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()
            self._before = torch.cuda.memory_allocated(device)
        else:
            if sys.platform == 'linux' and hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
                libc.malloc_trim(0)  # else this metric would be given, uncounted, what another one has left
            self._before = _resident('VmRSS')

    def restart(self) -> None:
        """Forget the peak so far."""
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self._before is not None:
            try:
                Path('/proc/self/clear_refs').write_text('5')
            except OSError:  # not everywhere allowed
                self._before = None

    def read(self) -> float | None:
        """The peak since `restart`, None where it is not known."""
        if self.device.type == 'cuda':
            return (torch.cuda.max_memory_allocated(self.device) - self._before) / 1e6
        peak = _resident('VmHWM')
        return None if peak is None or self._before is None else max(0.0, peak - self._before)


def _resident(line: str) -> float | None:
    try:
        return float(Path('/proc/self/status').read_text().split(f'{line}:')[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        return None


@dataclass(frozen=True)
class _Item:
    """An image to be scored with one prompt."""

    sha256: str
    prompt: str
    pixels: np.ndarray  # (h, w, 3), 8 bits
    last: bool  # of the image's prompts


class Scorer:
    """Scores with one metric.

    ResumableBatchSampler are given to it only if it scores the first images the same one by one and together. When memory runs out, batches
    are halved, down to one image.

    Attributes:
        batching: whether the metric is given batches; None until enough images of one size were seen.
        peak_mb: memory for one image, warm; None until it is known.
        decode_seconds: mean time for decoding an image; None until it is known.

    Args:
        metric: the metric.
        store: where the scores go.
        batch_size: most images in a batch.
        workers: processes that decode; few images are decoded in this one.
        memory: made before the metric was loaded.
    """

    def __init__(self, metric: ScoringMetric, store: Store, *, batch_size: int, workers: int, memory: PeakMemory | None = None):
        self.metric, self.store, self.batch_size, self.workers, self.memory = metric, store, batch_size, workers, memory
        self.batching: bool | None = None
        self.peak_mb: float | None = None
        self._most_pixels = MAX_KEPT_PIXELS
        self._warm = False
        self._decoding: list[float] = []

    @property
    def decode_seconds(self) -> float | None:
        return sum(self._decoding) / len(self._decoding) if self._decoding else None

    def score(self, dataset: str, advance: Callable[[int], None] = lambda count: None) -> None:
        """Score whatever the data set lacks of this metric.

        Args:
            dataset: its name in the store.
            advance: is called with the number of images that are done.
        """
        self.score_images(self.store.pending(dataset, self.metric.configuration), advance)
        self.store.put_costs(self.metric.configuration.metric, decode_seconds=self.decode_seconds, peak_mb=self.peak_mb)

    def score_images(self, pending: list[Pending], advance: Callable[[int], None] = lambda count: None) -> None:
        """Score these images with their prompts; `advance` as for `score`."""
        for batch in batches_of_one_size(self._items(pending, advance), self.batch_size):
            # a metric that takes prompts is given them for all images of a batch, or for none
            for items in ([item for item in batch if item.prompt], [item for item in batch if not item.prompt]):
                self._score_all(items)
            advance(sum(item.last for item in batch))

    def _put(self, results: list[Result]) -> list[Result]:
        self.store.put_scores(self.metric.configuration, results, str(self.metric.device))
        return results

    def _items(self, pending: list[Pending], advance) -> Iterator[tuple[tuple, _Item]]:
        """Sides and item of each image that can be decoded, for each of its prompts; the others get their reason."""
        loader = DataLoader(
            _Pictures([each.path for each in pending]),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers if len(pending) > FEW else 0,
            worker_init_fn=_leave_interrupts,
        )
        for each, (pixels, reason, seconds) in zip(pending, loader, strict=True):
            if pixels is None:
                self._put([Result(each.sha256, prompt, None, reason) for prompt in each.prompts])
                advance(1)
                continue
            self._decoding.append(seconds)
            for prompt in each.prompts:
                yield pixels.shape[:2], _Item(each.sha256, prompt, pixels, last=prompt == each.prompts[-1])

    def _score_all(self, items: list[_Item]) -> None:
        while items:
            fitting = max(1, self._most_pixels // items[0].pixels[..., 0].size)
            if self.batching is None and min(len(items), fitting) > 1:
                count = min(CHECKED, len(items), fitting)
                self._check(items[:count])
            else:
                count = fitting if self.batching else 1
                self._attempt(items[:count])
            items = items[count:]

    def _check(self, items: list[_Item]) -> None:
        """Score one by one, and decide whether batches give the same."""
        results = [result for item in items for result in self._attempt([item])]
        if any(result.score is None for result in results):
            return  # these images tell nothing; the next ones may
        try:
            together, _ = self._call(items)
        except Exception as error:
            if _out_of_memory(error):
                self._most_pixels = items[0].pixels[..., 0].size * (len(items) // 2)
            else:
                self.batching = False
        else:
            alone = [result.score for result in results]
            self.batching = all(isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-6) for a, b in zip(alone, together, strict=True))
        self._free()

    def _attempt(self, items: list[_Item]) -> list[Result]:
        """Score together; where that fails, in halves if memory ran out, and else one by one. All is stored at once."""
        single = len(items) == 1
        measured = single and self._warm and self.peak_mb is None and self.memory is not None
        if measured:
            self.memory.restart()
        try:
            scores, seconds = self._call(items)
        # Whatever a metric raises is the reason of its image, and costs no other image its score.
        except Exception as error:
            reason, out_of_memory = f'made the metric fail: {reason_of(error)}', _out_of_memory(error)
        else:
            if measured:
                self.peak_mb = self.memory.read()
            if not self._warm:
                self._warm, seconds = True, None
            return self._put(
                [
                    Result(item.sha256, item.prompt, score, '', seconds and seconds / len(items), len(items))
                    if isfinite(score)
                    else Result(item.sha256, item.prompt, None, f'got the score {score}.')
                    for item, score in zip(items, scores, strict=True)
                ]
            )
        # Out here the exception, and with it the memory of the batch, is gone.
        self._free()
        if single:
            return self._put([Result(items[0].sha256, items[0].prompt, None, reason)])
        if out_of_memory:
            half = len(items) // 2
            self._most_pixels = items[0].pixels[..., 0].size * half
            return self._attempt(items[:half]) + self._attempt(items[half:])
        return [result for item in items for result in self._attempt([item])]

    def _call(self, items: list[_Item]) -> tuple[list[float], float]:
        """Scores, and the seconds that they took together."""
        batch = torch.from_numpy(np.stack([item.pixels for item in items])).permute(0, 3, 1, 2)
        prompts = [item.prompt for item in items] if items[0].prompt else None
        self._wait()
        start = time.perf_counter()
        scores = self.metric(batch.to(self.metric.device) / 255, prompts)
        self._wait()
        if len(scores) != len(items):
            raise ValueError(f'{len(scores)} scores for {len(items)} images')
        return scores, time.perf_counter() - start

    def _wait(self) -> None:
        if self.metric.device.type == 'cuda':
            torch.cuda.synchronize(self.metric.device)

    def _free(self) -> None:
        if self.metric.device.type == 'cuda':
            torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()  # the allocators of the CPU and of other devices raise a RuntimeError
    return isinstance(error, RuntimeError) and ('out of memory' in text or 'not enough memory' in text)


class _Pictures(Dataset):
    """Each picture's pixels (h, w, 3) or None, the reason why there are none, and the seconds of reading."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray | None, str, float]:
        start = time.perf_counter()
        try:
            picture = np.array(read_image(self.paths[index]))
        except ImageError as error:
            return None, str(error).removeprefix(f"'{self.paths[index]}' "), 0.0
        return picture, '', time.perf_counter() - start


def _as_it_is(sample):
    return sample


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches the workers of the terminal's process too; it is for the command alone to stop them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
