"""Decoding in processes: what this process would read, and a reason for an image that kills its decoder."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align_iqa_plugin.data import decode as decoding
from align_iqa_plugin.data import image_check
from align_iqa_plugin.data.decode import decode
from align_iqa_plugin.data.image_check import decode_images
from align_iqa_plugin.data.images import DIED


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Files of images, the fourth of them no picture."""
    monkeypatch.chdir(tmp_path)
    names = [f'{number}.png' for number in range(20)]
    for number, name in enumerate(names):
        Image.new('L', (8, 8), number).save(name)
    Path('3.png').write_bytes(b'no picture')
    return names


def deadly(read, *deadly_names):
    """`read`, which kills its process at images of these names."""
    return lambda path, *size: os.kill(os.getpid(), signal.SIGKILL) if path in deadly_names else read(path, *size)


def test_images_are_decoded_the_same_in_processes(names):
    here, there = list(decode(names)), list(decode(names, workers=2))
    assert [each.reason for each in here] == [each.reason for each in there]
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.pixels, other.pixels) and one.full_size == other.full_size


@pytest.mark.skipif(os.name == 'nt', reason='processes must inherit the patch')
@pytest.mark.parametrize('count', [2, 20])
def test_an_image_that_kills_its_decoder_has_a_reason_and_the_others_are_read(names, monkeypatch, count):
    deaths = {'1.png', '10.png', '11.png', '19.png'}
    monkeypatch.setattr(decoding, 'read_image', deadly(decoding.read_image, *deaths))
    decoded = dict(zip(names[:count], decode(names[:count], workers=2), strict=True))
    assert {name for name, each in decoded.items() if each.reason == DIED} == deaths & decoded.keys()
    assert {name for name, each in decoded.items() if each.pixels is None} == (deaths | {'3.png'}) & decoded.keys()


@pytest.mark.skipif(os.name == 'nt', reason='processes must inherit the patch')
def test_the_check_of_a_data_set_names_an_image_that_kills_its_decoder(names, monkeypatch):
    monkeypatch.setattr(image_check, 'read_resized', deadly(image_check.read_resized, '5.png'))
    problems, sizes = decode_images(names, None, workers=2)
    assert problems.keys() == {'3.png', '5.png'} and problems['5.png'] == f"'5.png' {DIED}"
    assert sizes == {(8, 8)}
