"""Degraded copies of pictures at stated levels, and changes that should leave a score where it is.

A metric of quality falls when a picture is degraded, and further at each level; it keeps its value under a change that people
hardly see. Neither needs a rating, so both can be tested on any pictures (`align-iqa compare --behaviour`) and trained on.

Kinds and levels are ours, after the usual distortion databases (KADID-10k has blur, compression, noise, contrast and others at
five levels). Lengths are in pixels; in a picture of more than 512 x 512 they grow with the square root of its area.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from math import sqrt
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter, ImageOps, ImageStat

from align_iqa_plugin.runtime.names import suggest

LEVELS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        'blur': (1.5, 3.0, 5.0, 8.0),
        'jpeg': (25, 12, 7, 3),
        'noise': (12, 25, 45, 80),
        'resize': (2.0, 3.5, 6.0, 10.0),
        'contrast': (0.7, 0.5, 0.3, 0.15),
    }
)
"""By kind, what each level sets, mildest first.

- blur: standard deviation of a Gaussian blur, in pixels.
- jpeg: quality of a JPEG file, 0 to 100.
- noise: standard deviation of Gaussian noise in every channel, of 255.
- resize: the factor by which the picture is made smaller (bicubic, antialiased) and then larger again.
- contrast: the factor of the distance of each pixel to the picture's mean gray.
"""


def degrade(image: Image.Image, kind: str, level: int, seed: int = 0) -> Image.Image:
    """A degraded copy of the same size.

    Args:
        image: mode 'RGB'.
        kind: a key of `LEVELS`.
        level: 1 (mildest) to 4; 0 gives the picture itself.
        seed: of the noise.

    Raises:
        ValueError: an unknown kind or level.
    """
    if kind not in LEVELS:
        raise ValueError(f"unknown degradation '{kind}'{suggest(kind, LEVELS)}")
    if level not in range(len(LEVELS[kind]) + 1):
        raise ValueError(f'{kind} has no level {level}: choose from 0 to {len(LEVELS[kind])}.')
    if level == 0:
        return image
    amount = LEVELS[kind][level - 1]
    return _DEGRADATIONS[kind](image, amount, np.random.default_rng(seed))


def _blur(image: Image.Image, sigma: float, generator: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma * _scale(image)))


def _jpeg(image: Image.Image, quality: float, generator: np.random.Generator) -> Image.Image:
    return encode_again(image, 'JPEG', quality=int(quality))


def _noise(image: Image.Image, sigma: float, generator: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    noisy = pixels + sigma * generator.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _resize(image: Image.Image, factor: float, generator: np.random.Generator) -> Image.Image:
    factor *= _scale(image)
    small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def _contrast(image: Image.Image, factor: float, generator: np.random.Generator) -> Image.Image:
    mean = round(ImageStat.Stat(image.convert('L')).mean[0])
    return Image.blend(Image.new('RGB', image.size, (mean,) * 3), image, factor)


def _scale(image: Image.Image) -> float:
    """Side of a square of the picture's area, in units of 512 pixels, but at least 1."""
    return max(1.0, sqrt(image.width * image.height) / 512)


_DEGRADATIONS: Mapping[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    'blur': _blur,
    'jpeg': _jpeg,
    'noise': _noise,
    'resize': _resize,
    'contrast': _contrast,
}


def crop_border(image: Image.Image, pixels: int) -> Image.Image:
    """The picture without its outermost pixels on each side."""
    return ImageOps.crop(image, pixels)


def encode_again(image: Image.Image, format: str, **options: object) -> Image.Image:
    """The picture, written in a format of Pillow ('PNG', 'WEBP', 'AVIF', 'JPEG') and read back; options as of `Image.save`."""
    file = BytesIO()
    image.save(file, format, **options)
    return Image.open(file).convert('RGB')


CHANGES: Mapping[str, Callable[[Image.Image], Image.Image]] = MappingProxyType(
    {
        'flip': ImageOps.mirror,
        'crop 1': lambda image: crop_border(image, 1),
        'crop 4': lambda image: crop_border(image, 4),
        'crop 8': lambda image: crop_border(image, 8),
        'PNG': lambda image: encode_again(image, 'PNG'),
        'WebP 85': lambda image: encode_again(image, 'WEBP', quality=85),
        'AVIF 75': lambda image: encode_again(image, 'AVIF', quality=75),
        'gray': lambda image: image.convert('L').convert('RGB'),
        'x 2': lambda image: image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC),
    }
)
"""By name, changes after which people would rate a picture nearly the same; 'gray' and 'x 2' the least so."""

BLANKS = ('black', 'white', 'uniform noise')
"""Pictures of nothing, which no real picture should score below."""


def blank(size: tuple[int, int], kind: str, seed: int = 0) -> Image.Image:
    """A picture of nothing: one of `BLANKS`, of (width, height) pixels; the seed is that of the noise."""
    if kind == 'uniform noise':
        return Image.fromarray(np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8))
    return Image.new('RGB', size, kind)
