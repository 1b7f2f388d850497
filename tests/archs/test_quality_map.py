"""Quality maps: where they are low, what they cost, and which networks they take."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.msfa import StagePool
from align_iqa_plugin.archs.quality_map import quality_map


@pytest.fixture
def brightness():
    """A network of two stages whose patch tokens are the brightness of the patch; so is its score."""

    def backbone(image, injection, guidance):
        stage_map = F.adaptive_avg_pool2d(image.mean(1, keepdim=True), 14)
        return [torch.zeros(len(image), 1)] * 2, [stage_map] * 2

    return SimpleNamespace(
        views=1,
        guide=None,
        injection=None,
        backbone=backbone,
        msfa=StagePool(width=1, stages=2),
        head=lambda vectors: vectors.sum(1, keepdim=True),
    )


@pytest.mark.parametrize(('top', 'left'), [(0, 0), (0, 160), (80, 40), (160, 160)])
def test_the_lowest_cell_is_where_the_image_is_worst_and_the_first_cell_is_the_top_left_one(brightness, top, left):
    image = torch.ones(1, 3, 224, 224)
    image[:, :, top : top + 64, left : left + 64] = 0
    quality = quality_map(brightness, image)
    row, column = divmod(int(quality.argmin()), 14)
    assert top <= 16 * row + 8 < top + 64 and left <= 16 * column + 8 < left + 64
    assert quality.min() < 0 < quality.max()
    assert quality.mean().abs() < 1e-6


def test_a_cell_is_the_mean_score_of_the_tokens_around_it(brightness):
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    tokens = F.adaptive_avg_pool2d(image.mean(1), 28)[0]
    expected = 2 * tokens[9:17, 15:23].mean()  # of cell (6, 9), which has the tokens 12 and 13, 18 and 19; two stages
    quality = quality_map(brightness, image)
    assert quality[6, 9] - quality[3, 3] == pytest.approx(float(expected - 2 * tokens[3:11, 3:11].mean()), abs=1e-5)


@pytest.mark.parametrize('size', [(224, 224), (33, 57)])
def test_an_image_that_is_the_same_everywhere_has_a_flat_map(brightness, size):
    assert quality_map(brightness, torch.full((1, 3, *size), 0.5)).abs().max() < 1e-5


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
        guide='saliency',
        injection='cgi',
        injection_options={'blocks': [4, 5], 'bottleneck': 8},
        aggregation=aggregation,
        head='mlp',
    )
    torch.nn.init.normal_(net.head.mlp[-1].weight)
    net.is_trained = True
    quality = quality_map(net.eval(), torch.rand(1, 3, *size))
    assert quality.shape == shape
    assert quality.std() > 0 and not quality.requires_grad
