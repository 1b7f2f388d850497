"""Copies that are made when they are read: what their URIs say, or an error that names them."""

import numpy as np
import pytest
from PIL import Image

from align_iqa_plugin.data.copies import copies_of, empty_pictures, is_copy, read_copy
from align_iqa_plugin.data.degradations import BLANKS, CHANGES, LEVELS, degrade
from align_iqa_plugin.data.images import ImageError, read_image


@pytest.fixture
def photograph(tmp_path):
    """A file whose name is hard on a parser."""
    pixels = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    path = tmp_path / 'copy://a b' / '50% #1?.png'
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.mark.parametrize('form', ['{}', 'file://{}'])
def test_every_copy_is_the_picture_after_what_its_name_says(photograph, form):
    image = read_image(photograph)
    copies = list(copies_of(form.format(photograph), 'sha'))
    assert [(copy.name, copy.level) for copy in copies] == [
        *((kind, level) for kind in LEVELS for level in (1, 2, 3, 4)),
        *((name, 0) for name in CHANGES),
    ]
    for copy in copies:
        assert is_copy(copy.uri) and not is_copy(str(photograph))
        made = read_copy(copy.uri)
        expected = degrade(image, copy.name, copy.level) if copy.level else CHANGES[copy.name](image)
        assert np.array_equal(made, expected), copy
        assert (made.mode, made.info['full_size']) == ('RGB', made.size)


def test_a_hash_stands_for_the_picture_and_what_is_done_to_it():
    hashes = [copy.sha256 for sha256 in 'ab' for copy in [*copies_of('a.png', sha256), *copies_of('b.png', sha256)]]
    assert len(set(hashes)) == len(hashes) / 2 == 58, 'the name of the file makes no difference'
    assert set(hashes).isdisjoint(copy.sha256 for copy in empty_pictures())


def test_empty_pictures_are_black_white_and_noise_of_all_values():
    pixels = {copy.name: np.asarray(read_copy(copy.uri)) for copy in empty_pictures()}
    assert list(pixels) == list(BLANKS)
    assert {each.shape for each in pixels.values()} == {(512, 512, 3)}
    assert (pixels['black'] == 0).all() and (pixels['white'] == 255).all()
    counts = np.bincount(pixels['uniform noise'].ravel())
    assert len(counts) == 256 and counts.min() > 0.9 * counts.mean() and counts.max() < 1.1 * counts.mean()


@pytest.mark.parametrize('size', [(10, 40), (16, 16)])
def test_a_copy_of_which_no_pixel_would_be_left_is_an_error_that_names_it(tmp_path, size):
    Image.new('RGB', size).save(tmp_path / 'small.png')
    uri = f'copy://crop 8/0/{tmp_path}/small.png'
    with pytest.raises(ImageError) as error:
        read_copy(uri)
    assert str(error.value).startswith(f"'{uri}' cannot be made: ")


def test_a_copy_of_a_picture_that_cannot_be_read_has_the_reason_of_the_picture(tmp_path):
    uri = f'copy://blur/1/{tmp_path}/none.png'
    with pytest.raises(ImageError) as error:
        read_copy(uri)
    assert str(error.value) == f"'{uri}' does not exist."
