import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from align_iqa_plugin.data.degradations import CHANGES, LEVELS, degrade
from align_iqa_plugin.data.images import read_image
from align_iqa_plugin.score.find_images import SAMPLES


@pytest.fixture(scope='module')
def photograph():
    return read_image(SAMPLES / 'DALLE2_normal_054.jpg').resize((256, 192))


def distance(image, other):
    return float(np.abs(np.asarray(image, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize('kind', LEVELS)
def test_each_level_is_further_from_the_picture(photograph, kind):
    copies = [degrade(photograph, kind, level) for level in range(5)]
    assert copies[0] is photograph
    distances = [distance(photograph, copy) for copy in copies]
    assert distances == sorted(set(distances)) and distances[1] > 0.5


@given(
    kind=st.sampled_from(list(LEVELS)),
    level=st.integers(1, 4),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    seed=st.integers(0, 2**32),
)
def test_any_picture_keeps_its_size_and_a_seed_gives_one_copy(kind, level, width, height, seed):
    image = Image.effect_noise((width, height), 40).convert('RGB')
    copies = [degrade(image, kind, level, seed) for _ in range(2)]
    assert copies[0].size == image.size and copies[0].mode == 'RGB'
    assert copies[0].tobytes() == copies[1].tobytes()


@pytest.mark.parametrize('kind', ['blur', 'resize', 'contrast'])
def test_levels_mean_the_same_for_a_large_picture(photograph, kind):
    # seen at one size, the copies of a picture and of an enlarged one look alike
    pictures = [photograph.resize(size, Image.Resampling.BICUBIC) for size in ((640, 480), (1280, 960))]
    seen = [degrade(picture, kind, 3).resize((64, 48), Image.Resampling.BOX) for picture in pictures]
    unchanged = photograph.resize((64, 48), Image.Resampling.BOX)
    assert distance(*seen) < 0.4 * distance(seen[0], unchanged)


def test_noise_differs_by_seed(photograph):
    assert degrade(photograph, 'noise', 2, 0).tobytes() != degrade(photograph, 'noise', 2, 1).tobytes()


def test_unknown_kinds_and_levels_are_named(photograph):
    with pytest.raises(ValueError, match="unknown degradation 'blurr'; did you mean 'blur'"):
        degrade(photograph, 'blurr', 1)
    with pytest.raises(ValueError, match='blur has no level 5: choose from 0 to 4'):
        degrade(photograph, 'blur', 5)


@pytest.mark.parametrize('name', CHANGES)
def test_a_change_gives_the_rgb_picture_that_it_names(photograph, name):
    changed = CHANGES[name](photograph)
    assert changed.mode == 'RGB'
    pixels = np.asarray(photograph)
    border = int(name.split()[1]) if name.startswith('crop') else 0
    expected = {
        'flip': pixels[:, ::-1],
        'gray': np.asarray(photograph.convert('L'))[..., None].repeat(3, 2),
        'x 2': pixels.repeat(2, 0).repeat(2, 1),
    }.get(name, pixels[border : pixels.shape[0] - border, border : pixels.shape[1] - border])
    assert np.asarray(changed).shape == expected.shape
    difference = np.abs(np.asarray(changed, float) - expected).mean()
    assert difference < 6 if name in ('x 2', 'WebP 85', 'AVIF 75') else difference == 0
