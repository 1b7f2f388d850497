"""Decodes many images in worker processes, to find the damaged ones and their sizes before they are needed."""

from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from align_iqa_plugin.data.images import ImageError, read_resized


def decode_images(
    paths: Sequence[str], input_size: int | Sequence[int] | None, *, workers: int
) -> tuple[dict[str, str], set[tuple[int, int]]]:
    """The problem of each image that cannot be read, by path, and the sizes (height, width) of the others.

    A progress bar shows on a terminal's standard error.

    Args:
        paths: the files.
        input_size: see `read_resized`; the sizes are those after it.
        workers: processes that decode; 0 decodes in this one.
    """
    # A loader, not threads: `read_image` reads one image at a time in a process. Its own generator: a loader draws a number
    # when it starts, and that must not move the random stream of the training.
    loader = DataLoader(_Sizes(paths, input_size), batch_size=None, num_workers=workers, generator=torch.Generator())
    console = Console(stderr=True)
    hidden = not console.is_terminal  # where rich would leave an empty line
    results = track(loader, 'Checking images', total=len(paths), console=console, transient=True, disable=hidden)
    problems, sizes = {}, set()
    for path, (size, problem) in zip(paths, results, strict=True):
        if problem:
            problems[path] = problem
        else:
            sizes.add(tuple(size))
    return problems, sizes


class _Sizes(Dataset):
    """Height and width of each image, and the problem of one that cannot be read."""

    def __init__(self, paths: Sequence[str], input_size: int | Sequence[int] | None):
        self.paths, self.input_size = paths, input_size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[tuple[int, int] | None, str | None]:
        try:
            image = read_resized(self.paths[index], self.input_size)
        except ImageError as error:
            return None, str(error)
        return (image.height, image.width), None
