"""Quality maps: where they are low, which networks they take, and what their direction is fitted to."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.quality_map import RIDGE, MapFit, cells, quality_map


@pytest.fixture
def colours():
    """A network of two stages whose patch tokens are the red and the green of the patch; the score is the mean green."""

    class Colours:
        backbone = SimpleNamespace(stage_ends=[0, 1], width=2)

        def stages(self, view, caption_list):
            stage_map = F.adaptive_avg_pool2d(view[:, :2], 14)
            return [torch.zeros(len(view), 2)] * 2, [stage_map] * 2

        def __call__(self, image):
            return image[:, 1:2].mean((2, 3))

    return Colours()


GREEN = torch.tensor([0.0, 0.5, 0.0, 0.5])


@pytest.mark.parametrize(('top', 'left'), [(0, 0), (0, 160), (80, 40), (160, 160)])
def test_the_lowest_cell_is_where_the_image_is_worst_and_the_first_cell_is_the_top_left_one(colours, top, left):
    image = torch.ones(1, 3, 224, 224)
    image[:, :, top : top + 64, left : left + 64] = 0
    quality = quality_map(colours, GREEN, image)
    row, column = divmod(int(quality.argmin()), 14)
    assert top <= 16 * row + 8 < top + 64 and left <= 16 * column + 8 < left + 64
    assert quality.min() < 0 < quality.max()
    assert quality.mean().abs() < 1e-6


def test_a_cell_is_read_from_the_mean_token_around_it(colours):
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    tokens = F.adaptive_avg_pool2d(image[:, 1], 28)[0]
    expected = tokens[10:16, 16:22].mean()  # of cell (6, 9), which has the tokens 12 and 13, 18 and 19
    quality = quality_map(colours, GREEN, image)
    assert quality[6, 9] - quality[3, 3] == pytest.approx(float(expected - tokens[4:10, 4:10].mean()), abs=1e-5)


@pytest.mark.parametrize('size', [(224, 224), (33, 57)])
def test_an_image_that_is_the_same_everywhere_has_a_flat_map(colours, size):
    assert quality_map(colours, GREEN, torch.full((1, 3, *size), 0.5)).abs().max() < 1e-5


@pytest.mark.parametrize('aggregation', ['stage_pool', 'msfa'])
@pytest.mark.parametrize(('size', 'shape'), [((96, 96), (4, 4)), ((64, 144), (3, 6)), ((33, 32), (4, 4))])
@pytest.mark.parametrize('views', [1, 2])
def test_a_network_with_guidance_and_a_pyramid_has_a_map_of_the_shape_of_the_image(views, aggregation, size, shape):
    torch.manual_seed(0)
    net = AlignIQA(
        backbone='test_vit',
        backbone_weights='random',
        input_size=64,
        views=views,
        injection_options={'blocks': [4, 5], 'bottleneck': 8},
        aggregation=aggregation,
    ).eval()
    quality = quality_map(net, torch.randn(4 * net.backbone.width), torch.rand(1, 3, *size))
    assert quality.shape == shape
    assert quality.std() > 0 and not quality.requires_grad


# The direction


def images_and_copies(count=6):
    """Images whose red varies from place to place; their copies have less of either colour."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        image = torch.full((1, 3, 56, 56), 0.8)
        image[:, 0] = F.interpolate(torch.rand(1, 1, 4, 4, generator=generator), 56)[0]
        image[:, 1] -= 0.1 * F.interpolate(torch.rand(1, 1, 4, 4, generator=generator), 56)[0]
        yield image, [image - 0.1, image - 0.3]


@pytest.fixture
def fit(colours):
    fit = MapFit(colours)
    for image, copies in images_and_copies():
        fit.add(image, copies)
    return fit


def test_along_the_direction_copies_fall_by_what_they_lose_of_the_score(fit, colours):
    direction = fit.direction()
    falls = [
        (cells(colours, image) - cells(colours, copy)) @ direction for image, copies in images_and_copies() for copy in copies
    ]
    assert torch.stack(falls).mean() == pytest.approx(0.2, abs=1e-4)


def test_no_direction_has_copies_that_fall_further_beside_what_differs_within_an_image(fit, colours):
    apart = torch.cat([(found := cells(colours, image).flatten(0, 1)) - found.mean(0) for image, _ in images_and_copies()])
    within = apart.T @ apart / len(apart)
    within += RIDGE * within.diagonal().diag()
    fall = torch.full((4,), 0.2)

    def criterion(direction):
        return (fall @ direction).square() / (direction @ within @ direction)

    best = criterion(fit.direction())
    others = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    assert all(criterion(other) <= best * (1 + 1e-4) for other in others)
    assert criterion(fall) < best / 2  # what differs within an image has to count


def test_copies_that_do_not_score_lower_cannot_fit_a_map(colours):
    fit = MapFit(colours)
    with pytest.raises(ValueError, match='do not score lower'):
        fit.direction()
    fit.add(torch.full((1, 3, 56, 56), 0.3), [torch.full((1, 3, 56, 56), 0.5)])
    with pytest.raises(ValueError, match='do not score lower'):
        fit.direction()
