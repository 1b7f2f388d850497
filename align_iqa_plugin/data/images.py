"""Reads a picture into the form that the network expects: 8-bit RGB, upright, on white.

JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, JPEG 2000 and PNM are read, and with a package more HEIF (HEIC) and JPEG XL. The file's
content decides its format, not its name. Colour profiles are not applied, as nowhere in pyiqa.
"""

import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from math import ceil, prod, sqrt
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageFile, features

from align_iqa_plugin.data.uris import is_uri, read_uri

T = TypeVar('T')

ENDINGS = {
    *('.jpg', '.jpeg', '.jfif', '.png', '.webp', '.avif', '.gif', '.bmp', '.tif', '.tiff'),
    *('.jp2', '.j2k', '.ppm', '.pgm', '.pbm', '.pnm', '.heic', '.heif', '.hif', '.jxl'),
}
"""What image files are usually called, in lower case: which files of a folder are pictures, also those that need a package."""

MAX_PIXELS = 2**29
"""Largest picture that is read, in pixels. Pillow holds up to 4 bytes a pixel while it decodes, so this is 2 GiB for a
moment: room for 20,000 x 20,000, and little enough for an ordinary computer to survive a hostile file."""

MAX_FILE_BYTES = 8 * MAX_PIXELS
"""Largest file that is read, in bytes: 8 for each pixel, those of 16-bit colour with transparency, uncompressed. Some decoders
read the whole file before they look at it."""

MAX_KEPT_PIXELS = 2**24
"""Largest picture that `read_image` returns, in pixels (4096 x 4096). The network looks at a few hundred pixels a side,
so what lies above only costs memory: 200 MB a picture as floats at this size."""

DIED = 'makes the process that decodes it die.'
"""The problem of a picture that ends its decoding process, whether a decoder crashes or memory runs out."""

PATCH_SIZE = 16  # pixels; a network of other patches resizes an image that is not square once more, by less than a patch

# Only formats that Pillow decodes by itself: its EPS reader, for one, would run Ghostscript on a stranger's file.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'AVIF', 'GIF', 'BMP', 'TIFF', 'JPEG2000', 'PPM')
# Formats that a package adds to Pillow: its module, and the extra of ours that installs it
_ADDED_FORMATS = {'HEIF': ('pillow_heif', 'heif'), 'JXL': ('pillow_jxl', 'jxl')}
# What a file begins with, after the size of its first box
_BEGINNINGS = {
    'HEIF': re.compile(rb'....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)', re.DOTALL),
    'JXL': re.compile(rb'\xff\x0a|....JXL ', re.DOTALL),
    'AVIF': re.compile(rb'....ftypavi[fs]', re.DOTALL),
}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A picture that cannot be read. The message is one sentence that names the file and the reason."""


def read_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """The picture: mode 'RGB', upright by its EXIF, transparent parts on white, the first frame of several.

    16-bit grey is scaled to 8 bits, CMYK and palettes are converted. A picture of more than `MAX_KEPT_PIXELS` is
    averaged down by the same whole number on both sides. `image.info['full_size']` is (width, height) before that.

    Args:
        source: the path of the file or its URI (uris.py), the file's content, or what Pillow has opened, which is not changed.

    Raises:
        ImageError: there is no such file, it is no picture, it is damaged, or it has more than `MAX_PIXELS` pixels.

    >>> read_image(Image.new('LA', (40, 30), (0, 0))).getpixel((0, 0))  # transparent
    (255, 255, 255)
    """
    path = _name(source)
    try:
        return _read(source)
    except _Reason as reason:
        raise ImageError(f"'{path}' {reason}.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"'{path}' has more than {MAX_PIXELS:,} pixels; make it smaller.") from None
    except MemoryError:
        raise ImageError(f"'{path}' does not fit into the memory; make it smaller.") from None
    # Pillow's decoders let through whatever struct, zlib or a table look-up raises at damaged bytes.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(f"'{path}' cannot be opened: {error.strerror}.") from error
        damage = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
        raise ImageError(f"'{path}' is damaged or of an unknown kind: {damage}.") from error


def read_resized(
    path: str | Path,
    input_size: int | Sequence[int] | None,
    change: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """The picture as `read_image` gives it, at the size that a network expects.

    Args:
        path: of the file, or its URI.
        input_size: a number gives the area of its square and keeps the aspect ratio, as the network itself resizes; a pair
            gives that height and width, whatever the aspect ratio; None keeps the size.
        change: of the picture before it is resized, such as one of `degradations.py`.

    Raises:
        ImageError: it cannot be read.
    """
    image = read_image(path)
    if change is not None:
        image = change(image)
    if input_size is None:
        return image
    from torchvision.transforms.functional import to_tensor

    from align_iqa_plugin.archs.views import resize, view_size

    width, height = image.size
    size = view_size(height, width, input_size, PATCH_SIZE) if isinstance(input_size, int) else (input_size[0], input_size[1])
    if size == (height, width):
        return image
    resized = resize(to_tensor(image)[None], size)[0]
    return Image.fromarray((resized * 255).round().byte().permute(1, 2, 0).numpy())


def batches_of_one_size(pictures: Iterable[tuple[tuple[int, int], T]], batch_size: int) -> Iterator[list[T]]:
    """Gather pictures into lists of one size.

    A list has at most `batch_size` pictures and about 16 million pixels. Pictures wait for others of their size, but
    never more than some 50 million pixels of them.

    Args:
        pictures: the two sides of each picture, and what is to be gathered: the picture, with what belongs to it.
        batch_size: at least 1.
    """
    waiting: dict[tuple[int, int], list[T]] = {}
    for size, picture in pictures:
        group = waiting.setdefault(size, [])
        group.append(picture)
        if len(group) == batch_size or (len(group) + 1) * prod(size) > MAX_KEPT_PIXELS:
            yield waiting.pop(size)
        elif sum(len(others) * prod(other) for other, others in waiting.items()) > 2 * MAX_KEPT_PIXELS:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


class _Reason(Exception):
    """Why a picture cannot be read: the end of a sentence that begins with the file's name."""


_settings_lock = threading.Lock()


@contextmanager
def _pillow_settings():
    """Pillow's limits are global: set ours while a picture is read, and leave everybody else's as they were.

    pyiqa, for one, switches `LOAD_TRUNCATED_IMAGES` on, and the missing part of a picture would be scored as grey.
    """
    with _settings_lock, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # on odd metadata, and on pictures above half the limit
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        # Pillow raises above twice its limit.
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = MAX_PIXELS // 2, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _name(source: str | Path | bytes | Image.Image) -> str | Path:
    """What errors call it."""
    if isinstance(source, Image.Image):
        return getattr(source, 'filename', '') or 'a picture of Pillow'
    return 'a picture in bytes' if isinstance(source, bytes) else source


def _file(path: str | Path | bytes) -> Path | BytesIO:
    if isinstance(path, bytes):
        if not path:
            raise _Reason('is empty (0 bytes)')
        return BytesIO(path)
    if is_uri(path):
        try:
            content = read_uri(path)
        except OSError as error:
            raise _Reason(f'cannot be read: {" ".join(str(error).split()).rstrip(".")}') from error
        if not content:
            raise _Reason('is empty (0 bytes)')
        return BytesIO(content)
    path = Path(path)
    if not path.exists():
        raise _Reason('does not exist')
    if not path.is_file():
        raise _Reason('is not a file')
    if not (size := path.stat().st_size):
        raise _Reason('is empty (0 bytes)')
    if size > MAX_FILE_BYTES:
        raise _Reason(f'has more than {MAX_FILE_BYTES:,} bytes')
    return path


def _read(source: str | Path | bytes | Image.Image) -> Image.Image:
    if isinstance(source, Image.Image):
        with _pillow_settings():
            return _upright_rgb(source, source.size)
    file = _file(source)
    with _pillow_settings(), _open(file) as opened:
        full_size = opened.size
        factor = _reduction(full_size)
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size straight away; the other formats ignore this.
        opened.draft(None, (ceil(full_size[0] / factor), ceil(full_size[1] / factor)))
        return _upright_rgb(opened, full_size)


def _upright_rgb(opened: Image.Image, full_size: tuple[int, int]) -> Image.Image:
    opened.load()
    # After load(): a PNG may carry its EXIF behind the pixels, and a TIFF is upright, its mark removed, by then.
    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever a damaged EXIF raises: the pixels are sound, so the picture is taken as it lies
        orientation = None
    image = _rgb(opened, _reduction(opened.size))
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
        if orientation >= 5:
            full_size = full_size[::-1]
    image.info['full_size'] = full_size
    return image


def _open(file: Path | BytesIO) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except Image.UnidentifiedImageError:
        with nullcontext(file) if isinstance(file, BytesIO) else file.open('rb') as opened:
            opened.seek(0)
            content = opened.read(32)  # longer than any of the beginnings
        name = next((name for name, beginning in _BEGINNINGS.items() if beginning.match(content)), None)
        if name in _ADDED_FORMATS and name not in _formats():
            extra = _ADDED_FORMATS[name][1]
            raise _Reason(f"is in {name}, which needs a package: pip install 'align-iqa-plugin[{extra}]'") from None
        if name == 'AVIF' and not features.check('avif'):
            raise _Reason('is in AVIF, which this build of Pillow does not read: pip install --upgrade pillow') from None
        raise _Reason(f'is not a picture in a known format ({", ".join(_formats())})') from None


@lru_cache
def _formats() -> tuple[str, ...]:
    """The formats that can be read here."""
    added = []
    for name, (module, _) in _ADDED_FORMATS.items():
        with suppress(ImportError):
            plugin = import_module(module)  # pillow_jxl adds its format then, pillow_heif by a function
            getattr(plugin, 'register_heif_opener', bool)()
            added.append(name)
    return (*_FORMATS, *added)


def _reduction(size: tuple[int, int]) -> int:
    return ceil(sqrt(size[0] * size[1] / MAX_KEPT_PIXELS))


def _rgb(opened: Image.Image, factor: int) -> Image.Image:
    """In RGB and at 1/factor of its size, a strip at a time, so that no second copy of a huge picture is made."""
    width, height = opened.size
    image = Image.new('RGB', (ceil(width / factor), ceil(height / factor)))
    for top in range(0, height, 64 * factor):
        strip = opened.crop((0, top, width, min(top + 64 * factor, height)))
        image.paste(_strip_rgb(strip).reduce(factor), (0, top // factor))
    return image


def _strip_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode == 'F':
        raise _Reason('holds floating-point pixels, whose white is not known; save it with 8 or 16 bits')
    if strip.mode.startswith('I'):
        values = np.asarray(strip)
        if values.min() < 0 or values.max() > 65535:
            raise _Reason('holds 32-bit pixels, whose white is not known; save it with 8 or 16 bits')
        # the upper byte, as Pillow itself takes it for 16-bit colour
        return Image.fromarray((values >> 8).astype(np.uint8)).convert('RGB')
    if strip.has_transparency_data:
        strip = strip.convert('RGBA')
        white = Image.new('RGBA', strip.size, 'white')
        white.alpha_composite(strip)
        strip = white
    return strip.convert('RGB')
