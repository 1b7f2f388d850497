"""Writes a score into the bytes of a picture file. All other bytes stay: the compressed data, and what else the file holds.

PNG: a text chunk ``align_iqa``. JPEG and WebP: a tag in the EXIF block; a TIFF file is itself such a block. The tag is
ImageDescription (text ``align_iqa 3.1416``), or XPComment where the picture has a description already. A block is not written
anew, because what cameras put there (maker notes, thumbnails) names places in it: the list of tags is copied to its end, with
the new tag, and the first list stays where it was, unused.

Formats: PNG specification, section 11.3.3.3; Exif 2.32 and TIFF 6.0, section 2; WebP container, "Extended File Format".
"""

import struct
import zlib
from io import BytesIO

from PIL import Image

KEY = 'align_iqa'

_EXIF = b'Exif\0\0'  # in front of the block in a JPEG, and by mistake in some WebP files
_ORDERS = {b'II*\0': '<', b'MM\0*': '>'}
_TAGS = (0x010E, 2, 'ascii'), (0x9C9C, 1, 'utf-16-le')  # ImageDescription is text, XPComment bytes that hold text


class MetadataError(ValueError):
    """A score cannot be written into a picture; the message is the end of a sentence that begins with the picture's name."""


def with_score(content: bytes, score: float) -> bytes:
    """The file's bytes with the score in them, to four places; one that an earlier call has written is replaced.

    Raises:
        MetadataError: the format has no place that is known here, the picture has both tags already, or its EXIF is damaged.
    """
    text = f'{score:.4f}'
    try:
        if content.startswith(b'\x89PNG\r\n\x1a\n'):
            return _png(content, text)
        if content.startswith(b'\xff\xd8'):
            return _jpeg(content, text)
        if content.startswith(b'RIFF') and content[8:12] == b'WEBP':
            return _webp(content, text)
        if content[:4] in _ORDERS:
            return _with_tag(content, text)
    except (struct.error, IndexError) as error:
        raise MetadataError('has damaged metadata, which the score could be lost in') from error
    raise MetadataError('is in a format that takes no score here; PNG, JPEG, WebP and TIFF do')


def _png(content: bytes, text: str) -> bytes:
    """With a tEXt chunk behind the header, which is the first chunk and has a fixed length."""
    if content[12:16] != b'IHDR':
        raise MetadataError('has no header where a PNG has it')
    start = end = 33
    body = KEY.encode() + b'\0' + text.encode()
    length, kind, earlier = struct.unpack_from(f'>I4s{len(KEY) + 1}s', content, start)
    if (kind, earlier) == (b'tEXt', KEY.encode() + b'\0'):
        end = start + length + 12
    chunk = struct.pack('>I', len(body)) + b'tEXt' + body + struct.pack('>I', zlib.crc32(b'tEXt' + body))
    return content[:start] + chunk + content[end:]


def _jpeg(content: bytes, text: str) -> bytes:
    """With the tag in the APP1 segment of the EXIF; a new one stands behind APP0, which JFIF wants first."""
    position = start = end = 2
    block = b''
    while content[position] == 0xFF and content[position + 1] not in (0xDA, 0xD9):  # the pixels, or the end
        marker, length = struct.unpack_from('>HH', content, position)
        if marker == 0xFFFF:  # a byte that fills up
            position += 1
            continue
        following = position + 2 + length
        if marker == 0xFFE1 and content.startswith(_EXIF, position + 4):
            start, end, block = position, following, content[position + 4 + len(_EXIF) : following]
            break
        if marker == 0xFFE0 and position == start:
            start = end = following
        position = following
    segment = _EXIF + _with_tag(block, text)
    if len(segment) > 0xFFFF - 2:
        raise MetadataError('has an EXIF block that is full')
    return content[:start] + struct.pack('>HH', 0xFFE1, len(segment) + 2) + segment + content[end:]


def _webp(content: bytes, text: str) -> bytes:
    """With the tag in the EXIF chunk; a file without the chunk VP8X, which announces such chunks, gets one."""
    (size,) = struct.unpack_from('<I', content, 4)
    chunks, position = [], 12
    while position < 8 + size:
        kind, length = struct.unpack_from('<4sI', content, position)
        chunks.append((kind, content[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    block = next((body for kind, body in chunks if kind == b'EXIF'), b'')
    if chunks[0][0] != b'VP8X':
        with Image.open(BytesIO(content), formats=('WEBP',)) as image:
            width, height = ((side - 1).to_bytes(3, 'little') for side in image.size)
            flags = 0x10 * (image.mode == 'RGBA')
        chunks.insert(0, (b'VP8X', bytes([flags, 0, 0, 0]) + width + height))
    announced = chunks[0][1]
    chunks[0] = (b'VP8X', bytes([announced[0] | 0x08]) + announced[1:])
    chunks = [each for each in chunks if each[0] != b'EXIF']
    chunks.append((b'EXIF', _with_tag(block.removeprefix(_EXIF), text)))
    body = b''.join(kind + struct.pack('<I', len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b'RIFF' + struct.pack('<I', len(body) + 4) + b'WEBP' + body + content[8 + size :]


def _with_tag(block: bytes, text: str) -> bytes:
    """The EXIF block, or the TIFF file, with the score in a tag; b'' gives a new block."""
    block = block or b'II*\0' + struct.pack('<IHI', 8, 0, 0)
    order = _ORDERS.get(block[:4])
    if order is None:
        raise MetadataError('has an EXIF block of an unknown kind')
    (position,) = struct.unpack_from(f'{order}I', block, 4)
    (number,) = struct.unpack_from(f'{order}H', block, position)
    end = position + 2 + 12 * number
    (following,) = struct.unpack_from(f'{order}I', block, end)
    entries = [block[place : place + 12] for place in range(position + 2, end, 12)]

    def tag_of(entry: bytes) -> int:
        return struct.unpack_from(f'{order}H', entry)[0]

    def is_free(tag: int, encoding: str) -> bool:
        places = [struct.unpack_from(f'{order}I', entry, 8)[0] for entry in entries if tag_of(entry) == tag]
        return all(block.startswith(f'{KEY} '.encode(encoding), place) for place in places)  # there is none, or it is ours

    free = [(tag, kind, encoding) for tag, kind, encoding in _TAGS if is_free(tag, encoding)]
    if not free:
        raise MetadataError('has a description and a comment in its EXIF already')
    tag, kind, encoding = free[0]
    value = f'{KEY} {text}\0'.encode(encoding)
    padding = bytes(len(block) % 2)  # values and lists begin at even places
    place = len(block) + len(padding)
    entries = [entry for entry in entries if tag_of(entry) != tag]
    entries.append(struct.pack(f'{order}HHII', tag, kind, len(value), place))
    entries.sort(key=tag_of)
    value += bytes(len(value) % 2)
    tags = struct.pack(f'{order}H', len(entries)) + b''.join(entries) + struct.pack(f'{order}I', following)
    return block[:4] + struct.pack(f'{order}I', place + len(value)) + block[8:] + padding + value + tags
