"""Which images an iteration sees, in which order and augmented how: all of it follows from the seed and the iteration."""

import math
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from align_iqa_plugin.models.process_group import rank, world_size
from align_iqa_plugin.runtime.seeds import seed_everything


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """A list of (epoch, index) for each iteration from `first` to before `last`: this process' shard of the batch.

    An epoch is every image once; its last batch is filled up with the epoch's first images.

    Args:
        images: their number.
        batch_size: of all processes together.
        seed: decides the order of every epoch.
        shuffle: False keeps the order of the images.
        enlarge: how often an epoch holds each image, pyiqa's dataset_enlarge_ratio.

    Attributes:
        per_epoch: number of iterations in an epoch.
    """

    def __init__(self, images: int, *, batch_size: int, seed: int, shuffle: bool = True, enlarge: float = 1):
        self.images, self.batch_size, self.seed, self.shuffle = images, batch_size, seed, shuffle
        self.size = math.ceil(images * enlarge)
        self.per_epoch = math.ceil(self.size / batch_size)
        self.first = self.last = 0

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        known, order = None, np.arange(0)
        for iteration in range(self.first, self.last):
            epoch, step = divmod(iteration, self.per_epoch)
            if epoch != known:
                known, order = epoch, self.order(epoch)
            batch = order[np.arange(step * self.batch_size, (step + 1) * self.batch_size) % self.size]
            yield [(epoch, int(index)) for index in batch[rank() :: world_size()]]

    def order(self, epoch: int) -> np.ndarray:
        """The indices of an epoch's images in their order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.size) if self.shuffle else np.arange(self.size)
        return order % self.images


class Samples(Dataset):
    """The training images by (epoch, index); their augmentation depends on these two and the seed, not on the worker."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place: tuple[int, int]) -> dict:
        seed_everything(self.seed, *place, 1)  # the 1 keeps these seeds apart from those of iterations
        return self.dataset[place[1]]


def build_loader(dataset: Dataset, section: dict, **order) -> DataLoader:
    """A loader with the options of a data set's section.

    Args:
        order: `sampler` or `batch_sampler`.
    """
    if 'sampler' in order:
        order['batch_size'] = section.get('batch_size_per_gpu', 1)
    return DataLoader(
        dataset,
        num_workers=section.get('num_worker_per_gpu') or 0,
        pin_memory=section.get('pin_memory', False),
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),
        **order,
    )


def _collate(samples: list[dict]) -> dict:
    first = samples[0]
    for sample in samples:
        if sample['img'].shape != first['img'].shape:
            sizes = [f'{s["img_path"]} has {s["img"].shape[2]} x {s["img"].shape[1]} pixels' for s in (first, sample)]
            raise ValueError(
                f'{sizes[0]}, {sizes[1]}: the images of a batch need one size; set batch_size_per_gpu: 1 for them.'
            )
    return default_collate(samples)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C in a terminal reaches the workers too, but the training is to stop them, after its iteration."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
