"""Copies of a picture that are made when they are read: degraded, changed, or without any content.

A copy has a URI, ``copy://NAME/LEVEL/PATH``, so it goes wherever a path goes (other processes, other machines) and takes no
space on a disk. NAME is a kind of degradation, a change or one of the `BLANKS`, which need no PATH (degradations.py).
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from align_iqa_plugin.data.degradations import BLANKS, CHANGES, LEVELS, blank, degrade
from align_iqa_plugin.data.images import ImageError, read_image

_SIZE = (512, 512)  # of the pictures without content: the unit of degradations.py


class Copy(NamedTuple):
    """A copy that has not been made yet."""

    name: str
    level: int  # of a degradation, from 1; else 0
    uri: str
    sha256: str  # of what it is made from, and how: it stands for the content


def copies_of(path: str, sha256: str) -> Iterator[Copy]:
    """All degraded copies of a picture, level after level, and all changed ones.

    Args:
        path: of the picture, or its URI.
        sha256: of its file.
    """
    for name, amounts in LEVELS.items():
        for level, amount in enumerate(amounts, 1):
            yield Copy(name, level, f'copy://{name}/{level}/{path}', _content_hash(f'{name} {amount}', sha256))
    for name in CHANGES:
        yield Copy(name, 0, f'copy://{name}/0/{path}', _content_hash(name, sha256))


def empty_pictures() -> Iterator[Copy]:
    """The pictures that show nothing."""
    for name in BLANKS:
        yield Copy(name, 0, f'copy://{name}/0/', _content_hash(name, ''))


def is_copy(path: object) -> bool:
    """Whether this is the URI of a copy."""
    return str(path).startswith('copy://')


def read_copy(uri: str) -> Image.Image:
    """The copy, made now: mode 'RGB'; `image.info['full_size']` is its own size.

    Raises:
        ImageError: the picture cannot be read, or such a copy cannot be made of it; the message begins with the URI.
    """
    name, level, path = uri.removeprefix('copy://').split('/', 2)
    try:
        copy = _made(name, int(level), path)
    except ImageError as error:
        raise ImageError(str(error).replace(f"'{path}'", f"'{uri}'", 1)) from error
    # whatever Pillow raises: a border wider than the picture, a format that this build cannot write
    except Exception as error:
        raise ImageError(f"'{uri}' cannot be made: {' '.join(str(error).split()) or type(error).__name__}.") from error
    if not copy.width or not copy.height:
        raise ImageError(f"'{uri}' cannot be made: no pixel is left.")
    copy.info['full_size'] = copy.size
    return copy


def _made(name: str, level: int, path: str) -> Image.Image:
    if name in BLANKS:
        return blank(_SIZE, name)
    image = read_image(path)
    return degrade(image, name, level) if name in LEVELS else CHANGES[name](image)


def _content_hash(recipe: str, sha256: str) -> str:
    """Another Pillow may write another JPEG, and another NumPy draw other noise."""
    made_by = f'Pillow {PIL.__version__}, NumPy {np.__version__}'
    return hashlib.sha256(f'{recipe}, {made_by}, {sha256}'.encode()).hexdigest()
