"""A score in a picture's file: readable by others, and everything else in the file is what it was."""

import struct
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageSequence

from align_iqa_plugin.data.images import ImageError, read_image
from align_iqa_plugin.score.metadata import MetadataError, with_score

NOISE = np.random.default_rng(0).integers(0, 256, (33, 47, 4), dtype=np.uint8)
XP_COMMENT, DESCRIPTION = 0x9C9C, ExifTags.Base.ImageDescription


def encode(kind, mode='RGB', **options):
    file = BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, format=kind, **options)
    return file.getvalue()


def exif(**tags):
    block = Image.Exif()
    for name, value in tags.items():
        block[ExifTags.Base[name]] = value
    return block


def opened(content):
    return Image.open(BytesIO(content))


def score_of(content):
    image = opened(content)
    if image.format == 'PNG':
        return image.text['align_iqa']
    tags = image.getexif()
    comment = tags.get(XP_COMMENT, b'').decode('utf-16-le').rstrip('\0')
    description = tags.get(DESCRIPTION, '')
    return next(text.removeprefix('align_iqa ') for text in (comment, description) if text.startswith('align_iqa '))


def compressed(content):
    """The bytes that hold the pixels, found without the module that is tested."""
    if content.startswith(b'\x89PNG'):
        return content[content.index(b'IDAT') - 4 : content.index(b'IEND')]
    if content.startswith(b'\xff\xd8'):
        return content[content.index(b'\xff\xdb') :]  # from the tables on, which stand behind all metadata
    if content.startswith(b'RIFF'):
        start = min(content.index(kind) for kind in (b'VP8 ', b'VP8L', b'ALPH', b'ANMF') if kind in content)
        (length,) = struct.unpack_from('<I', content, start + 4)
        return content[start : start + 8 + length]
    return content[8:]  # a TIFF: all that it had is still there


FILES = {
    'png': encode('PNG', 'RGBA'),
    'palette.png': encode('PNG', 'P'),
    'jpeg': encode('JPEG'),
    'progressive.jpeg': encode('JPEG', progressive=True, icc_profile=b'x' * 70_000, comment=b'mine'),
    'grey.jpeg': encode('JPEG', 'L'),
    'cmyk.jpeg': encode('JPEG', 'CMYK'),
    'exif.jpeg': encode('JPEG', exif=exif(Make='me', Orientation=6)),
    'webp': encode('WEBP'),
    'lossless.webp': encode('WEBP', 'RGBA', lossless=True),
    'opaque.webp': encode('WEBP', lossless=True),
    'alpha.webp': encode('WEBP', 'RGBA'),
    'exif.webp': encode('WEBP', exif=exif(Make='me', Orientation=6), xmp=b'<x/>'),
    'tiff': encode('TIFF'),
    'lzw.tiff': encode('TIFF', 'L', compression='tiff_lzw'),
    'big-endian.tiff': encode('TIFF', 'I;16B'),
    'exif.tiff': encode('TIFF', exif=exif(Make='me')),
}


@pytest.mark.parametrize('name', FILES)
def test_a_score_can_be_read_and_pixels_and_compressed_data_are_what_they_were(name):
    before = FILES[name]
    after = with_score(before, 3.14159)
    assert score_of(after) == '3.1416'
    assert opened(after).mode == opened(before).mode and opened(after).tobytes() == opened(before).tobytes()
    same = compressed(before)
    assert compressed(after)[: len(same)] == same
    assert len(after) < len(before) + 300


@pytest.mark.parametrize('name', FILES)
def test_a_second_score_takes_the_place_of_the_first(name):
    once = with_score(FILES[name], 3.1)
    assert score_of(with_score(once, 2.5)) == '2.5000'
    assert name not in ('png', 'palette.png') or with_score(once, 3.1) == once


@pytest.mark.parametrize('name', ['exif.jpeg', 'exif.webp', 'exif.tiff', 'progressive.jpeg'])
def test_all_other_metadata_stay(name):
    before, after = opened(FILES[name]), opened(with_score(FILES[name], 1))
    tags = dict(after.getexif())
    del tags[DESCRIPTION]
    assert tags == dict(before.getexif()) and (name == 'progressive.jpeg' or tags[ExifTags.Base.Make] == 'me')
    left_out = ('exif', DESCRIPTION)
    assert all(after.info[key] == value for key, value in before.info.items() if key not in left_out)


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP'])
@pytest.mark.parametrize('endian', ['<', '>'])
def test_a_block_with_parts_that_point_into_it_is_kept_byte_for_byte(kind, endian):
    block = exif(Make='a maker with a long name')
    block.endian = endian
    block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b'places in here'
    block.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = 'N'
    after = with_score(encode(kind, exif=block.tobytes()), 1)
    assert block.tobytes().removeprefix(b'Exif\0\0')[8:] in after
    read = opened(after).getexif()
    assert read.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] == b'places in here'
    assert read.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == 'N'
    assert read[ExifTags.Base.Make] == 'a maker with a long name' and score_of(after) == '1.0000'


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP', 'TIFF'])
def test_a_description_stays_and_the_score_becomes_a_comment(kind):
    after = with_score(encode(kind, exif=exif(ImageDescription='my cat')), 2)
    tags = opened(after).getexif()
    assert tags[DESCRIPTION] == 'my cat' and score_of(after) == '2.0000'
    assert score_of(with_score(after, 3)) == '3.0000'


def test_a_description_and_a_comment_leave_no_room():
    tags = exif(ImageDescription='my cat')
    tags[XP_COMMENT] = 'mine too'.encode('utf-16-le')
    with pytest.raises(MetadataError, match='description and a comment'):
        with_score(encode('JPEG', exif=tags), 2)


def test_a_full_block_of_a_jpeg_is_a_sentence():
    tags = exif()
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = bytes(65_440)
    with pytest.raises(MetadataError, match='full'):
        with_score(encode('JPEG', exif=tags), 2)


def test_text_chunks_of_a_png_stay():
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text('parameters', 'a cat')
    assert opened(with_score(encode('PNG', pnginfo=info), 2)).text == {'align_iqa': '2.0000', 'parameters': 'a cat'}


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF'])
def test_frames_of_an_animation_stay(kind):
    frames = [Image.new('RGB', (40, 40), colour) for colour in ('red', 'green', 'blue')]
    file = BytesIO()
    frames[0].save(file, format=kind, save_all=True, append_images=frames[1:])
    before, after = file.getvalue(), with_score(file.getvalue(), 2)
    frames_before, frames_after = (
        [frame.convert('RGB').tobytes() for frame in ImageSequence.Iterator(opened(content))] for content in (before, after)
    )
    assert frames_before == frames_after and len(frames_before) == 3 and score_of(after) == '2.0000'


@pytest.mark.parametrize('kind', ['GIF', 'BMP', 'AVIF', 'JPEG2000', 'PPM'])
def test_other_formats_are_a_sentence(kind):
    with pytest.raises(MetadataError, match='format that takes no score here; PNG, JPEG, WebP and TIFF do'):
        with_score(encode(kind), 2)


@pytest.mark.filterwarnings('ignore')  # of Pillow, at damaged bytes
@given(st.sampled_from(sorted(FILES)), st.data())
def test_a_damaged_picture_that_can_be_read_is_the_same_with_a_score_or_a_sentence(name, data):
    content = bytearray(FILES[name])
    place = data.draw(st.integers(2, min(len(content), 200) - 1))
    content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(2, len(content)))])
    try:
        pixels = read_image(content).tobytes()
    except ImageError:  # such a picture has no score
        return
    with suppress(MetadataError):
        assert read_image(with_score(content, 2)).tobytes() == pixels
