"""Maps of images: the files, their names, and what the colours say."""

import numpy as np
import pytest
import torch
from PIL import Image

from align_iqa_plugin.score.explain import draw_map, explain_rows
from align_iqa_plugin.score.rows import Row


class Brightness:
    """A stand-in for Align-IQA: the mean brightness, of the image and of its quarters."""

    device = torch.device('cpu')
    score_range = (0.0, 5.0)

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3)).tolist()

    def quality_map(self, image, prompt):
        quarters = torch.nn.functional.adaptive_avg_pool2d(image.mean(1), 2)[0]
        return (quarters - quarters.mean()).numpy()


@pytest.fixture
def picture(tmp_path):
    """A white picture whose top right quarter is black."""
    path = tmp_path / 'a.png'
    image = Image.new('RGB', (64, 96), 'white')
    image.paste('black', (32, 0, 64, 48))
    image.save(path)
    return path


def test_every_scored_image_has_an_array_and_an_overlay(picture, tmp_path):
    (row,) = explain_rows(Brightness(), [Row('a.png', picture)], tmp_path)
    assert row.score == pytest.approx(0.75) and row.columns == {'map': 'a'} and (row.width, row.height) == (64, 96)
    quality = np.load(tmp_path / 'a.map.npy')
    assert quality.dtype == np.float32
    assert quality == pytest.approx(np.array([[0.25, -0.75], [0.25, 0.25]]))
    assert Image.open(tmp_path / 'a.map.png').width == 256


def test_an_image_that_cannot_be_explained_has_a_reason_and_no_file(picture, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'no picture')
    Image.new('RGB', (20, 20)).save(tmp_path / 'small.png')
    folder = tmp_path / 'maps'
    folder.mkdir()
    rows = [Row(name, tmp_path / name) for name in ('bad.png', 'small.png', 'a.png')]
    assert len(list(explain_rows(Brightness(), rows, folder))) == 3
    assert 'known format' in rows[0].error and 'at least 32' in rows[1].error and not rows[2].error
    assert sorted(file.name for file in folder.iterdir()) == ['a.map.npy', 'a.map.png']


def test_a_map_that_fails_is_the_reason_of_its_image(picture, tmp_path):
    metric = Brightness()
    metric.quality_map = lambda image, prompt: 1 / 0
    (row,) = explain_rows(metric, [Row('a.png', picture)], tmp_path)
    assert row.score is None and 'ZeroDivisionError' in row.error


def test_images_of_one_name_get_numbers(picture, tmp_path):
    rows = [Row('a.png', picture), Row('A.png', picture, 'prompt'), Row('b', picture.rename(tmp_path / 'A.jpg'))]
    rows[0].path = rows[1].path = rows[2].path
    assert sorted(row.columns['map'] for row in explain_rows(Brightness(), rows, tmp_path)) == ['A', 'A_2', 'A_3']


def test_orange_is_worse_purple_better_and_gray_neither():
    image = Image.new('RGB', (300, 300), (80, 80, 80))
    quality = np.array([[-1, 0, 1]] * 3, np.float32)
    drawn = draw_map(image, quality, full=1)
    low, none, high = (drawn.getpixel((x, 150)) for x in (10, 150, 290))
    assert low[0] > low[1] > low[2]
    assert high[2] > high[0] > high[1]
    assert max(none) - min(none) <= 2 and abs(none[0] - 80) <= 2
    assert draw_map(image, 5 * quality, full=1).getpixel((10, 150)) == low


@pytest.mark.parametrize('size', [(32, 2000), (2000, 32), (40, 40)])
def test_an_overlay_is_neither_huge_nor_too_small_for_its_legend(size):
    drawn = draw_map(Image.new('RGB', size), np.zeros((3, 3), np.float32), full=0.5)
    assert max(drawn.size) <= 1024 + 2 * 64
