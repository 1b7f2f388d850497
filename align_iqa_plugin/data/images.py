"""Reads a picture of any common kind into the form that the network expects: 8-bit RGB, upright, on white.

The file's content decides its format, not its name. Colour profiles are not applied, as nowhere in pyiqa.
"""

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import ceil, prod, sqrt
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageFile

from align_iqa_plugin.data.uris import is_uri, read_uri

T = TypeVar('T')

ENDINGS = {
    *('.jpg', '.jpeg', '.jfif', '.png', '.webp', '.avif', '.gif', '.bmp', '.tif', '.tiff'),
    *('.jp2', '.j2k', '.ppm', '.pgm', '.pbm', '.pnm'),
}
"""What image files are usually called, in lower case: which files of a folder are pictures."""

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


def read_image(path: str | Path) -> Image.Image:
    """The picture: mode 'RGB', upright by its EXIF, transparent parts on white, the first frame of several.

    16-bit grey is scaled to 8 bits, CMYK and palettes are converted. A picture of more than `MAX_KEPT_PIXELS` is
    averaged down by the same whole number on both sides. `image.info['full_size']` is (width, height) before that.

    Args:
        path: of the file, or its URI (uris.py).

    Raises:
        ImageError: there is no such file, it is no picture, it is damaged, or it has more than `MAX_PIXELS` pixels.
    """
    try:
        return _read(path)
    except _Reason as reason:
        raise ImageError(f"'{path}' {reason}.") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"'{path}' is not a picture in a known format ({', '.join(_FORMATS)}).") from None
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


def read_resized(path: str | Path, input_size: int | Sequence[int] | None) -> Image.Image:
    """The picture as `read_image` gives it, at the size that a network expects.

    Args:
        path: of the file, or its URI.
        input_size: a number gives the area of its square and keeps the aspect ratio, as the network itself resizes; a pair
            gives that height and width, whatever the aspect ratio; None keeps the size.

    Raises:
        ImageError: it cannot be read.
    """
    image = read_image(path)
    if input_size is None:
        return image
    from torchvision.transforms.functional import to_tensor

    from align_iqa_plugin.archs.backbone import resize, view_size

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


def _file(path: str | Path) -> Path | BytesIO:
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


def _read(path: str | Path) -> Image.Image:
    file = _file(path)
    with _pillow_settings(), Image.open(file, formats=_FORMATS) as opened:
        full_size = opened.size
        factor = _reduction(full_size)
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size straight away; the other formats ignore this.
        opened.draft(None, (ceil(full_size[0] / factor), ceil(full_size[1] / factor)))
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
