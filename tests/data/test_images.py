"""read_image: every picture of a known format becomes upright 8-bit RGB on white, and damage becomes an ImageError."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from torchvision.transforms.functional import to_tensor

from align_iqa_plugin.archs.views import resize, view_size
from align_iqa_plugin.data import images
from align_iqa_plugin.data.images import ImageError, read_image, read_resized

FORMATS = ['PNG', 'JPEG', 'WEBP', 'AVIF', 'GIF', 'BMP', 'TIFF', 'JPEG2000', 'PPM']
reuses_its_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def noise(width=48, height=36, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def smooth(width=48, height=36):
    """A picture that lossy formats keep well."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows * 5, columns * 4, 200 - rows - columns], -1).astype(np.uint8))


def difference(a, b):
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max()


@pytest.mark.parametrize('kind', FORMATS)
def test_each_format_gives_the_picture_in_rgb(tmp_path, kind):
    smooth().save(tmp_path / 'picture', format=kind, **({'quality': 95} if kind in ('JPEG', 'WEBP', 'AVIF') else {}))
    image = read_image(tmp_path / 'picture')
    assert (image.mode, image.size, image.info['full_size']) == ('RGB', (48, 36), (48, 36))
    lossless = kind in ('PNG', 'BMP', 'TIFF', 'PPM')
    assert difference(image, smooth()) <= (0 if lossless else 40)


def test_the_content_and_not_the_ending_decides_the_format(tmp_path):
    noise().save(tmp_path / 'picture.jpg', format='PNG')
    assert difference(read_image(tmp_path / 'picture.jpg'), noise()) == 0


def test_a_path_may_be_a_string(tmp_path):
    noise().save(tmp_path / 'a.png')
    assert difference(read_image(str(tmp_path / 'a.png')), read_image(tmp_path / 'a.png')) == 0


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF'])
def test_the_content_of_a_file_and_an_opened_picture_are_read_as_the_file_is(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise().save(tmp_path / 'a', format=kind, exif=exif)
    expected = read_image(tmp_path / 'a')
    assert expected.size == (36, 48)
    assert difference(read_image((tmp_path / 'a').read_bytes()), expected) == 0
    with Image.open(tmp_path / 'a') as opened:
        assert difference(read_image(opened), expected) == 0
        assert difference(read_image(opened), expected) == 0  # the first reading has not changed it


def test_a_picture_of_pillow_keeps_its_mode(tmp_path):
    picture = Image.new('LA', (40, 40), (9, 0))
    assert read_image(picture).getpixel((0, 0)) == (255, 255, 255)
    assert (picture.mode, picture.getpixel((0, 0))) == ('LA', (9, 0))


def test_errors_without_a_file_say_what_was_given(tmp_path):
    with pytest.raises(ImageError, match="^'a picture in bytes' is empty"):
        read_image(b'')
    with pytest.raises(ImageError, match="^'a picture of Pillow' holds floating-point pixels"):
        read_image(Image.new('F', (40, 40)))


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'CMYK', 'YCbCr'])
def test_modes_without_alpha_are_converted_as_pillow_converts_them(tmp_path, mode):
    picture = noise().convert(mode)
    picture.save(tmp_path / 'picture', format='PNG' if mode in ('1', 'P') else 'TIFF')
    assert difference(read_image(tmp_path / 'picture'), picture.convert('RGB')) == 0


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path):
    Image.new('CMYK', (40, 40), (0, 255, 255, 0)).save(tmp_path / 'red.jpg', quality=95)
    red, green, blue = read_image(tmp_path / 'red.jpg').getpixel((20, 20))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize('mode', ['LA', 'RGBA'])
def test_transparent_parts_lie_on_white(tmp_path, mode):
    grey = 100
    picture = Image.new(mode, (40, 40), (grey,) * (len(mode) - 1) + (0,))
    picture.paste(Image.new(mode, (20, 40), (grey,) * (len(mode) - 1) + (255,)), (0, 0))
    picture.paste(Image.new(mode, (5, 40), (grey,) * (len(mode) - 1) + (127,)), (15, 0))
    picture.save(tmp_path / 'a.png')
    image = read_image(tmp_path / 'a.png')
    assert image.getpixel((5, 5)) == (100, 100, 100)
    assert image.getpixel((30, 5)) == (255, 255, 255)
    assert image.getpixel((17, 5)) == pytest.approx((178, 178, 178), abs=1)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB'])
def test_a_transparent_colour_becomes_white(tmp_path, mode):
    picture = Image.new('RGB', (40, 40), 'black').convert(mode)
    picture.save(tmp_path / 'a.png', transparency=(0, 0, 0) if mode == 'RGB' else 0)
    assert read_image(tmp_path / 'a.png').getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'PPM', 'JPEG2000'])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path, kind):
    wide = np.linspace(0, 65535, 48 * 36).astype(np.uint16).reshape(36, 48)
    Image.fromarray(wide).save(tmp_path / 'picture', format=kind)
    assert difference(read_image(tmp_path / 'picture'), np.stack([wide >> 8] * 3, -1)) == 0


def test_16_bit_colour_is_scaled_to_8_bits(tmp_path):
    wide = np.random.default_rng(0).integers(0, 65536, (36, 48, 3), dtype=np.uint16)
    lines = b''.join(b'\0' + line.astype('>u2').tobytes() for line in wide)

    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 48, 36, 16, 2, 0, 0, 0))
    (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(lines)) + chunk(b'IEND', b''))
    assert difference(read_image(tmp_path / 'a.png'), wide >> 8) == 0


@pytest.mark.parametrize('kind', [np.float32, np.int32])
def test_pixels_without_a_known_white_are_an_error(tmp_path, kind):
    Image.fromarray(np.full((36, 48), 1e6, dtype=kind)).save(tmp_path / 'a.tif')
    with pytest.raises(ImageError, match='white is not known'):
        read_image(tmp_path / 'a.tif')


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_the_first_frame_of_an_animation_counts(tmp_path, kind):
    frames = [Image.new('RGB', (40, 40), colour) for colour in ('red', 'lime', 'blue')]
    options = {'lossless': True} if kind == 'WEBP' else {}
    frames[0].save(tmp_path / 'a', format=kind, save_all=True, append_images=frames[1:], **options)
    assert read_image(tmp_path / 'a').getpixel((20, 20)) == (255, 0, 0)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_picture_is_upright_by_its_exif(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise().save(tmp_path / 'a', format=kind, exif=exif)
    image = read_image(tmp_path / 'a')
    with Image.open(tmp_path / 'a') as opened:
        expected = ImageOps.exif_transpose(opened).convert('RGB')
    assert image.size == image.info['full_size'] == ((36, 48) if orientation >= 5 else (48, 36))
    assert difference(image, expected) == 0


def test_a_damaged_exif_does_not_cost_the_picture(tmp_path):
    noise().save(tmp_path / 'a.png', exif=b'Exif\0\0no EXIF at all')
    with pytest.raises(SyntaxError), Image.open(tmp_path / 'a.png') as opened:
        opened.getexif()
    assert difference(read_image(tmp_path / 'a.png'), noise()) == 0


def test_a_picture_just_below_the_limit_is_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(images, 'MAX_PIXELS', 48 * 36)
    noise().save(tmp_path / 'a.png')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_image(tmp_path / 'a.png').size == (48, 36)
    noise(49, 36).save(tmp_path / 'a.png')
    with pytest.raises(ImageError, match='more than 1,728 pixels'):
        read_image(tmp_path / 'a.png')


def test_a_single_pixel_is_read(tmp_path):
    Image.new('RGB', (1, 1), 'red').save(tmp_path / 'a.png')
    image = read_image(tmp_path / 'a.png')
    assert (image.size, image.getpixel((0, 0))) == ((1, 1), (255, 0, 0))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF'])
@pytest.mark.parametrize('orientation', [1, 6])
def test_a_large_picture_is_averaged_down(tmp_path, monkeypatch, kind, orientation):
    monkeypatch.setattr(images, 'MAX_KEPT_PIXELS', 100 * 100)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.linear_gradient('L').resize((1003, 401)).convert('RGB')
    picture.save(tmp_path / 'a', format=kind, exif=exif)
    image = read_image(tmp_path / 'a')
    full_size = (1003, 401) if orientation == 1 else (401, 1003)
    assert image.info['full_size'] == full_size
    assert 100 * 100 / 4 < image.width * image.height <= 101 * 101
    assert image.width / image.height == pytest.approx(full_size[0] / full_size[1], rel=0.02)
    upright = picture if orientation == 1 else picture.transpose(Image.Transpose.ROTATE_270)
    assert difference(image, upright.resize(image.size, Image.Resampling.BOX)) <= 4


@pytest.mark.parametrize('mode', ['1', 'P', 'RGBA', 'LA', 'CMYK', 'I;16'])
def test_averaging_in_strips_equals_averaging_the_whole(tmp_path, monkeypatch, mode):
    picture = Image.fromarray(np.arange(400 * 300, dtype=np.uint16).reshape(300, 400))
    if mode != 'I;16':
        picture = noise(400, 300, 4).convert(mode)
    picture.save(tmp_path / 'a', format='TIFF' if mode == 'CMYK' else 'PNG')
    whole = read_image(tmp_path / 'a')
    monkeypatch.setattr(images, 'MAX_KEPT_PIXELS', 200 * 150)
    assert difference(read_image(tmp_path / 'a'), whole.reduce(2)) == 0


def test_a_picture_above_the_limit_is_an_error_before_its_pixels_are_decoded(tmp_path):
    width, height = 30_000, 20_000
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    ihdr = struct.pack('>I', 13) + b'IHDR' + header + struct.pack('>I', zlib.crc32(b'IHDR' + header))
    idat = struct.pack('>I', 0) + b'IDAT' + struct.pack('>I', zlib.crc32(b'IDAT'))
    (tmp_path / 'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' + ihdr + idat)
    with pytest.raises(ImageError, match=r"bomb.png' has more than 536,870,912 pixels"):
        read_image(tmp_path / 'bomb.png')


def test_the_limit_has_room_for_20000_by_20000():
    assert 20_000 * 20_000 <= images.MAX_PIXELS


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_a_picture_of_20000_by_20000_is_read(tmp_path, kind):
    Image.new('L', (20_000, 20_000), 99).save(tmp_path / 'a', format=kind, **({'compress_level': 1} if kind == 'PNG' else {}))
    image = read_image(tmp_path / 'a')
    assert image.info['full_size'] == (20_000, 20_000)
    assert max(image.size) <= 4096 and image.getpixel((99, 99)) == (99, 99, 99)


def test_the_settings_of_pillow_are_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 12345)
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    noise().save(tmp_path / 'a.png')
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'a.png').read_bytes()[:999])
    read_image(tmp_path / 'a.png')
    with pytest.raises(ImageError, match='damaged'):  # although truncated files are switched on
        read_image(tmp_path / 'broken.png')
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (12345, True)


def test_each_problem_is_one_sentence_that_names_the_file(tmp_path):
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'text.png').write_text('no picture')
    (tmp_path / 'folder.png').mkdir()
    noise().save(tmp_path / 'whole.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'whole.jpg').read_bytes()[:-400])
    reasons = {
        'empty.png': 'is empty (0 bytes).',
        'text.png': 'is not a picture in a known format (',
        'folder.png': 'is not a file.',
        'cut.jpg': 'is damaged or of an unknown kind: ',
        'missing.png': 'does not exist.',
        'x' * 300: 'cannot be opened: ',
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"'{tmp_path / name}' {reason}")
        assert message.endswith('.') and not message.endswith('..') and '\n' not in message


@pytest.mark.parametrize(
    ('name', 'beginning', 'words'),
    [
        ('a.heic', b'\0\0\0\x1cftypheic', r"in HEIF, which needs a package: pip install 'align-iqa-plugin\[heif\]'"),
        ('a.heic', b'\0\0\0\x1cftypmif1', r'align-iqa-plugin\[heif\]'),
        ('a.jxl', b'\xff\x0a', r'align-iqa-plugin\[jxl\]'),
        ('a.jxl', b'\0\0\0\x0cJXL \r\n\x87\n', r'align-iqa-plugin\[jxl\]'),
    ],
)
def test_a_format_that_needs_a_package_names_it(tmp_path, monkeypatch, name, beginning, words):
    for module in ('pillow_heif', 'pillow_jxl'):
        monkeypatch.setitem(sys.modules, module, None)
    images._formats.cache_clear()
    (tmp_path / name).write_bytes(beginning + bytes(99))
    assert Path(name).suffix in images.ENDINGS
    with pytest.raises(ImageError, match=words):
        read_image(tmp_path / name)
    images._formats.cache_clear()


@pytest.mark.parametrize(('module', 'kind'), [('pillow_heif', 'HEIF'), ('pillow_jxl', 'JXL')])
def test_a_format_is_read_where_its_package_is_there(tmp_path, module, kind):
    plugin = pytest.importorskip(module)
    getattr(plugin, 'register_heif_opener', bool)()
    Image.new('RGB', (64, 48), (200, 10, 10)).save(tmp_path / 'a', format=kind)
    images._formats.cache_clear()
    image = read_image(tmp_path / 'a')
    assert image.size == (64, 48) and np.abs(np.subtract(image.getpixel((9, 9)), (200, 10, 10))).max() < 9


def test_ghostscript_is_never_run(tmp_path):
    (tmp_path / 'a.png').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n')
    with pytest.raises(ImageError, match='not a picture in a known format'):
        read_image(tmp_path / 'a.png')


@reuses_its_folder
@given(content=st.binary(max_size=200), start=st.sampled_from([None, *FORMATS]), keep=st.integers(2, 60))
def test_random_bytes_give_a_picture_or_an_image_error(tmp_path, monkeypatch, content, start, keep):
    if start is not None:
        content = encoded(start)[:keep] + content
    assert_picture_or_error(tmp_path / 'a', content, monkeypatch)


@reuses_its_folder
@given(data=st.data(), kind=st.sampled_from(FORMATS))
def test_a_cut_or_changed_file_gives_a_picture_or_an_image_error(tmp_path, monkeypatch, data, kind):
    content = bytearray(encoded(kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5), label='changed'):
        content[place] = data.draw(st.integers(0, 255), label='byte')
    assert_picture_or_error(
        tmp_path / 'a', bytes(content[: data.draw(st.integers(0, len(content)), label='kept')]), monkeypatch
    )


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'PPM'])
def test_half_a_file_is_an_image_error(tmp_path, kind):
    content = encoded(kind)
    (tmp_path / 'a').write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError):
        read_image(tmp_path / 'a')


def encoded(kind):
    file = io.BytesIO()
    noise().save(file, format=kind)
    return file.getvalue()


def assert_picture_or_error(path, content, monkeypatch):
    monkeypatch.setattr(images, 'MAX_PIXELS', 10**6)  # a changed width must not fill the memory of the tests
    path.write_bytes(content)
    try:
        image = read_image(path)
    except ImageError as error:
        assert str(path) in str(error)
    else:
        assert image.mode == 'RGB'


@given(
    height=st.integers(32, 3000),
    width=st.integers(32, 3000),
    input_size=st.integers(32, 600),
    patch=st.sampled_from([8, 14, 16, 32]),
)
@settings(max_examples=500, deadline=None)
def test_a_resized_size_is_resized_to_itself(height, width, input_size, patch):
    size = view_size(height, width, input_size, patch)
    assert view_size(*size, input_size, patch) == size


@pytest.mark.parametrize('size', [(512, 512), (480, 640), (1000, 240), (100, 100)])
def test_an_image_is_resized_as_the_network_does_it_to_half_a_level(tmp_path, size):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8))
    coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / 'image.png')
    image, small = (to_tensor(read_resized(tmp_path / 'image.png', input_size))[None] for input_size in (None, 224))
    expected = resize(image, view_size(*size, 224, 16))
    assert small.shape == expected.shape and (small - expected).abs().max() * 255 < 0.501


def test_a_pair_resizes_to_that_height_and_width_and_none_keeps_the_size(tmp_path):
    noise(48, 36).save(tmp_path / 'a.png')
    assert read_resized(tmp_path / 'a.png', [64, 32]).size == (32, 64)
    for same in ([36, 48], None):
        assert difference(read_resized(tmp_path / 'a.png', same), noise(48, 36)) == 0
