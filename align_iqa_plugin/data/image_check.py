"""Decodes many images in worker processes, to find the damaged ones and their sizes before they are needed."""

from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.progress import track

from align_iqa_plugin.data.images import DIED, ImageError, read_resized
from align_iqa_plugin.runtime.worker_pool import map_in_processes


def decode_images(
    paths: Sequence[str], input_size: int | Sequence[int] | None, *, workers: int
) -> tuple[dict[str, str], set[tuple[int, int]]]:
    """The problem of each image that cannot be read, by path, and the sizes (height, width) of the others.

    A progress bar shows on a terminal's standard error.

    Args:
        paths: the files.
        input_size: see `read_resized`; the sizes are those after it.
        workers: processes that decode; with 0, this process does, and an image that crashes its decoder ends it.
    """
    read = partial(_size, input_size=input_size)
    # processes, not threads: `read_image` reads one image at a time in a process
    sizes_or_problems = map_in_processes(read, paths, workers) if workers else map(read, paths)
    console = Console(stderr=True)
    hidden = not console.is_terminal  # where rich would leave an empty line
    results = track(sizes_or_problems, 'Checking images', total=len(paths), console=console, transient=True, disable=hidden)
    problems, sizes = {}, set()
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, tuple):
            sizes.add(result)
        else:
            problems[path] = f"'{path}' {DIED}" if result is None else result
    return problems, sizes


def _size(path: str, input_size: int | Sequence[int] | None) -> tuple[int, int] | str:
    """Height and width of an image, or the problem of one that cannot be read."""
    try:
        image = read_resized(path, input_size)
    except ImageError as error:
        return str(error)
    return image.height, image.width
