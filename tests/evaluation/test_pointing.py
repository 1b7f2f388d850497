"""Whether quality maps point at the part of an image that was degraded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from align_iqa_plugin.evaluation.pointing import KINDS, Case, cases, good_images, pointing, points_at


@pytest.fixture(scope='module')
def image():
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(90, 120, 3), dtype=np.uint8))


def test_a_ninth_of_the_image_is_degraded_and_the_rest_is_not(image):
    found = list(cases(image, 'a.png'))
    assert [case.kind for case in found] == list(KINDS)
    for case in found:
        left, top, right, bottom = case.box
        assert (right - left, bottom - top) == (40, 30)
        changed = ImageChops.difference(case.image, image).getbbox()
        assert changed[0] >= left and changed[1] >= top and changed[2] <= right and changed[3] <= bottom
    assert [case.box for case in cases(image, 'a.png')] == [case.box for case in found]
    assert [case.box for case in cases(image, 'b.png')] != [case.box for case in found]


def test_the_centre_of_the_lowest_cell_counts(image):
    quality = np.zeros((3, 4))
    quality[1, 2] = -1  # centre at x 75, y 45
    assert points_at(quality, Case(image, 'blur', (75, 45, 115, 75)))
    assert not points_at(quality, Case(image, 'blur', (35, 15, 75, 45)))


def test_images_are_drawn_from_the_good_ones_whatever_their_order():
    paths, mos = list('abcdef'), [1, 5, 4, 2, 5, 4]
    drawn = good_images(paths, mos, 3, above=2, seed=1)
    assert set(drawn) <= set('bcef') and len(set(drawn)) == 3
    assert good_images(paths[::-1], mos[::-1], 3, above=2, seed=1) == drawn


@pytest.mark.slow
@pytest.mark.data
def test_the_lowest_cell_of_the_packaged_model_points_much_better_than_chance(data_folder):
    """Prints what docs/explain.md states: 200 cases, from 50 images whose prompts the model has not seen."""
    from torchvision.transforms.functional import to_tensor

    from align_iqa_plugin.archs.pretrained import create_align_iqa
    from align_iqa_plugin.archs.quality_map import quality_map
    from align_iqa_plugin.data.images import read_image
    from align_iqa_plugin.data.labels import read_labels
    from align_iqa_plugin.data.splits import split_by_name, split_name
    from align_iqa_plugin.models.map_fit import read_map

    labels = read_labels(data_folder / 'AGIQA-3K')
    phases = split_by_name(labels, split_name(1))
    above = np.percentile([row.score for row in labels.rows], 70)
    test = [row for row, phase in zip(labels.rows, phases, strict=True) if phase == 'test']
    paths = good_images([row.path for row in test], [row.score for row in test], 50, above=above, seed=0)
    network = create_align_iqa(pretrained=True).eval()
    direction = read_map(network, None)
    images = ((Path(path).name, read_image(path)) for path in paths)
    found = pointing(images, lambda image: quality_map(network, direction, to_tensor(image)[None]).numpy())
    shares = {kind: np.mean(values) for kind, values in found.items()}
    print({kind: f'{share:.2f}' for kind, share in shares.items()}, f'all: {np.mean(list(shares.values())):.3f}')
    assert {len(values) for values in found.values()} == {50}
    assert np.mean(list(shares.values())) > 0.8
