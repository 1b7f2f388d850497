"""Scores the images of a data set with one metric into the store: in batches if that changes nothing, each score at once.

An image that cannot be decoded or scored, and a score that is no finite number, become a reason in the store; the others go on.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import isclose
from typing import Protocol

import torch

from align_iqa_plugin.compare.store import Configuration, Pending, Result, Store
from align_iqa_plugin.runtime.memory import PeakMemory, available_mb
from align_iqa_plugin.score.run import BatchScorer, Picture, is_out_of_memory, score_images
from align_iqa_plugin.score.run import Result as ImageResult

CHECKED = 4  # images by which it is decided whether a metric may be given batches
TOLERANCE = 1e-4  # of a score: what the order of summation in a batch changes stays well below


class ScoringMetric(Protocol):
    """What `Scorer` needs of a metric; `metrics.Metric` is one."""

    configuration: Configuration
    device: torch.device

    def __call__(self, images: torch.Tensor, prompts: Sequence[str] | None) -> list[float]: ...


class ResultStore(Protocol):
    """What takes the scores; `Store` is one."""

    def put_scores(self, configuration: Configuration, results: Sequence[Result], device: str) -> None: ...


class Scorer:
    """Scores with one metric.

    Attributes:
        batches: whether the metric may be given batches, and the memory that it needs.
        decode_seconds: mean time for decoding an image; None until it is known.

    Args:
        metric: the metric.
        store: where the scores go; `score` needs a `Store`.
        batch_size: most images in a batch.
        workers: processes that decode; 0 decodes in this one.
        memory: made before the metric was loaded.
    """

    def __init__(
        self, metric: ScoringMetric, store: ResultStore, *, batch_size: int, workers: int, memory: PeakMemory | None = None
    ):
        self.metric, self.store, self.batch_size, self.workers = metric, store, batch_size, workers
        self.batches = CheckedBatches(metric, memory)
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
        assert isinstance(self.store, Store)
        self.score_images(self.store.pending(dataset, self.metric.configuration), advance)
        costs = {'decode_seconds': self.decode_seconds, 'peak_mb': self.batches.peak_mb}
        self.store.put_costs(self.metric.configuration.metric, **costs)

    def score_images(self, pending: Sequence[Pending], advance: Callable[[int], None] = lambda count: None) -> None:
        """Score these images with their prompts; `advance` as for `score`."""
        asked = [(image, prompt) for image in pending for prompt in image.prompts]
        left = Counter(image.sha256 for image, _ in asked)  # prompts of each image
        images = [(image.path, prompt) for image, prompt in asked]
        for each in score_images(images, self.batches, batch_size=self.batch_size, workers=self.workers):
            image, prompt = asked[each.index]
            result = Result(image.sha256, prompt, each.score, each.reason, each.seconds, max(1, each.batch_size), each.std)
            self.store.put_scores(self.metric.configuration, [result], str(self.metric.device))
            left[image.sha256] -= 1
            if not left[image.sha256]:
                if each.decoded.seconds is not None:
                    self._decoding.append(each.decoded.seconds)
                advance(1)


class CheckedBatches(BatchScorer):
    """Gives a metric batches only if it scores the first images the same one by one and together.

    On a CPU they stay below half of the memory that is available, as far as that of one image tells: a process that asks for
    too much may be killed, where a GPU gives an error.

    Attributes:
        batching: whether the metric is given batches; None until enough images of one size were seen.
        peak_mb: memory for one image, warm; None until it is known.
    """

    def __init__(self, metric: ScoringMetric, memory: PeakMemory | None = None):
        super().__init__(metric, metric.device)
        self.memory = memory
        self.batching: bool | None = None
        self.peak_mb: float | None = None

    def __call__(self, pictures: Sequence[Picture]) -> Iterator[ImageResult]:
        while pictures:
            count = self.fitting(pictures)
            if self.batching is None and count > 1:
                count = min(CHECKED, count)
                yield from self._check(pictures[:count])
            else:
                count = count if self.batching else 1
                yield from self.attempt(pictures[:count])
            pictures = pictures[count:]

    def run(self, pictures: Sequence[Picture]) -> tuple[list[float], list[float | None], float]:
        if self.memory is None or self.peak_mb is not None or not self.warm or len(pictures) > 1:
            return super().run(pictures)
        self.memory.restart()
        scores = super().run(pictures)
        self.peak_mb = self.memory.read()
        available = available_mb() if self.device.type == 'cpu' else None
        if self.peak_mb and available is not None:
            height, width = pictures[0].size
            self.most_pixels = min(self.most_pixels, int(height * width * available / 2 / self.peak_mb))
        return scores

    def _check(self, pictures: Sequence[Picture]) -> Iterator[ImageResult]:
        """Results of scoring one by one, after which it is decided whether a batch gives the same."""
        alone = []
        for picture in pictures:
            for result in self.attempt([picture]):
                if result.score is not None:
                    alone.append(result.score)
                yield result
        if len(alone) < len(pictures) or self.fitting(pictures) < len(pictures):
            return  # these images decide nothing; the next ones may
        try:
            together, _, _ = self.run(pictures)
        except Exception as error:
            if is_out_of_memory(error):
                height, width = pictures[0].size
                self.most_pixels = height * width * (len(pictures) // 2)
            else:
                self.batching = False
        else:
            same = [isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-6) for one, other in zip(alone, together, strict=True)]
            self.batching = all(same)
        self.free()
