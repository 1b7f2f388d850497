"""Keeps the decoded images of a data set on disk, so that training does not wait for a decoder.

One file holds the pixels of all images, one after the other, as uint8 of shape (h, w, 3); it is memory-mapped, and only ever
grows. Beside it an index (JSON) says which bytes belong to which file: by path, size and time of change as long as these stay
the same, and else by the SHA-256 of the content. Nothing of a file counts until the index names it, and the index is replaced
as a whole, so a builder that is killed leaves no more behind than bytes that the next one overwrites.
"""

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from align_iqa_plugin.archs.backbone import resize, view_size
from align_iqa_plugin.data.images import ImageError, read_image

PATCH_SIZE = 16  # pixels; a network of other patches resizes an image that is not square once more, by less than a patch
SECONDS_BETWEEN_SAVES = 10  # how much work a builder that is killed loses


def read_resized(path: str | Path, input_size: int | Sequence[int] | None) -> Image.Image:
    """A picture as `read_image` gives it, at the size that a network wants.

    Args:
        path: the file.
        input_size: a number resizes to its square's area as the network does (`GuidedViT.view`), a pair to that height and
            width whatever the aspect ratio; None leaves the picture as it is.

    Raises:
        ImageError: it cannot be read.
    """
    image = read_image(path)
    if input_size is None:
        return image
    width, height = image.size
    size = view_size(height, width, input_size, PATCH_SIZE) if isinstance(input_size, int) else tuple(input_size)
    if size == (height, width):
        return image
    resized = resize(to_tensor(image)[None], size)[0]
    return Image.fromarray((resized * 255).round().byte().permute(1, 2, 0).numpy())


def each_in_workers(items: Dataset, *, workers: int, description: str) -> Iterator:
    """Every item in its order, made in `workers` processes (0: in this one), with a progress bar on standard error."""
    # A loader, not threads: `read_image` reads one image at a time in a process. Its own generator: a loader draws a number
    # when it starts, and that must not move the random stream of the training.
    loader = DataLoader(items, batch_size=None, num_workers=workers, generator=torch.Generator())
    console = Console(stderr=True)
    hidden = not console.is_terminal  # where rich would leave an empty line
    return iter(track(loader, description, total=len(items), console=console, transient=True, disable=hidden))


class ImageCache:
    """Pictures by path, as `read_resized` gives them, from disk: the same pixels, without decoding.

    Any number of processes may use one folder, and fill it: the second one waits for the first. An instance can be pickled; a
    copy reads the same files.

    Args:
        folder: where the files go: 3 bytes a pixel, so 150 kB an image of 224 x 224. It is made if it does not exist.
        input_size: see `read_resized`; each has its own files.
    """

    def __init__(self, folder: str | Path, input_size: int | Sequence[int] | None = None):
        self.folder = Path(folder).expanduser()
        self.input_size = input_size
        if input_size is None:
            self.name = 'full_size'
        else:
            self.name = f'area_{input_size}' if isinstance(input_size, int) else '{}x{}'.format(*input_size)
        self.places: dict[str, tuple[int, int, int]] = {}  # of each path: first byte, height, width
        self._pixel_file = self._pixels = None

    def fill(self, paths: Sequence[str], *, workers: int = 0) -> dict[str, str]:
        """Make sure that all these images can be read; decode those that are new or have changed.

        Returns:
            What is wrong with each file that is no sound picture, as a sentence.

        Raises:
            ValueError: the folder cannot be written, or is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            index, problems = self._index() or _empty_index(), {}
            if self._stale(index, paths):
                with self._only_builder():
                    index, problems = self._build(paths, workers)
        except OSError as error:
            raise ValueError(
                f'image_cache: {error.filename or self.folder} cannot be written: {error.strerror or error}.'
            ) from error
        self._pixel_file = self.folder / index['pixels']
        self._pixels = None
        for path in paths:
            if path not in problems:
                self.places[path] = tuple(index['images'][index['files'][os.path.realpath(path)][2]])
        return problems

    def read(self, path: str) -> Image.Image:
        """The picture in a file that `fill` has taken in."""
        start, height, width = self.places[path]
        if self._pixels is None:
            try:
                self._pixels = np.memmap(self._pixel_file, np.uint8, 'r')
            except FileNotFoundError:  # another process has begun it anew since
                return read_resized(path, self.input_size)
        pixels = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        return Image.fromarray(np.array(pixels))

    def __getstate__(self):
        # workers map the file themselves: a pickled map would be a copy of all pixels
        return {**self.__dict__, '_pixels': None}

    @property
    def _index_file(self):
        return self.folder / f'{self.name}.json'

    def _index(self) -> dict | None:
        """The index, if its pixels are there."""
        try:
            index = json.loads(self._index_file.read_text(encoding='utf-8'))
            whole = (self.folder / index['pixels']).stat().st_size >= index['end']
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return index if whole else None

    def _stale(self, index, paths):
        """The paths whose file is new, or has another size or time of change than the index knows."""
        stale = []
        for path in paths:
            known = index['files'].get(os.path.realpath(path))
            if known is None or known[:2] != _stamp(path):
                stale.append(path)
        return stale

    def _only_builder(self):
        # held by the operating system: it is free again when its holder dies
        lock = FileLock(self.folder / f'{self.name}.lock')
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            logging.getLogger(__name__).warning(f'image_cache: waiting for another process that fills {self.folder}.')
            return lock.acquire()

    def _build(self, paths, workers):
        index = self._index()  # again: another process may have filled it while this one waited
        if index is None:
            if self._index_file.exists():
                logging.getLogger(__name__).warning(
                    f'image_cache: {self._index_file} or its pixels are damaged; they are made anew.'
                )
            # a new name, never the old file: another process may have that mapped
            for old in self.folder.glob(f'{self.name}.*.uint8'):
                old.unlink()
            index = _empty_index() | {'pixels': f'{self.name}.{uuid.uuid4().hex}.uint8'}
            (self.folder / index['pixels']).touch()
        problems, stale, saved = {}, self._stale(index, paths), time.monotonic()
        decoded = _Decoded(stale, self.input_size, set(index['images']))
        with (self.folder / index['pixels']).open('r+b') as file:
            file.seek(index['end'])
            try:
                items = each_in_workers(decoded, workers=workers, description='Filling image_cache')
                for path, (stamp, content, pixels, problem) in zip(stale, items, strict=True):
                    if problem:
                        problems[path] = problem
                        continue
                    if content not in index['images']:
                        file.write(pixels.numpy())
                        index['images'][content] = [index['end'], *pixels.shape[:2]]
                        index['end'] += pixels.numel()
                    index['files'][os.path.realpath(path)] = [*stamp, content]
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save(index, file)
                        saved = time.monotonic()
            finally:
                self._save(index, file)
        return index, problems

    def _save(self, index, file):
        file.flush()
        os.fsync(file.fileno())  # the index must not name pixels that a power cut can still undo
        unfinished = self._index_file.with_suffix('.unfinished')
        unfinished.write_text(json.dumps(index), encoding='utf-8')
        unfinished.replace(self._index_file)


class _Decoded(Dataset):
    """Of each file its stamp, the hash of its content, its pixels (none where the content is known), and what is wrong."""

    def __init__(self, paths, input_size, known):
        self.paths, self.input_size, self.known = paths, input_size, known

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        stamp = _stamp(path)
        try:
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            if content in self.known:
                return stamp, content, None, None
            return stamp, content, np.array(read_resized(path, self.input_size)), None
        except ImageError as error:
            return stamp, None, None, str(error)
        except OSError as error:
            return stamp, None, None, f"'{path}' cannot be opened: {error.strerror}."


def _empty_index():
    return {'pixels': '', 'end': 0, 'files': {}, 'images': {}}


def _stamp(path):
    """Size and time of change of a file, in nanoseconds; None where it is gone."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
