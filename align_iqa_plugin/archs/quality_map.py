"""Where a network finds an image better or worse: its score with the features of each place in place of those of the centre.

A score hardly says which part of the image made it: the class token sees all of it, and the head reads the mean of the centre.
So the image is cut into views that show it larger, and the head scores every cell of them anew: with the mean of the tokens
around the cell where it expects the centre's, and all else, such as the class tokens, as it is on average over the views.
This depends on no detail of head or aggregation beyond the order of the pooled stage features.

Chosen among 90 variants on 60 cases; docs/explain.md says how often the map points at a part that was degraded.
"""

from collections.abc import Sequence
from math import ceil, prod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA

VIEWS = 2  # on each side: a quarter of the image fills the network's input
TOKENS = 2  # on each side of a cell
WINDOW = 2 / 7  # side of the square that scores a cell, of the side of a square image: 8 tokens of 28


@torch.no_grad()
def quality_map(network: AlignIQA, image: Float[Tensor, '1 3 h w'], prompt: str | None = None) -> Float[Tensor, 'rows columns']:
    """How much each cell of an image raises its score, or lowers it where it is negative; on average over the cells 0.

    Args:
        network: trained.
        image: RGB in [0, 1], at least 32 x 32 pixels.
        prompt: of the image; only a guide that reads prompts uses it.

    Returns:
        In the unit of the main score, the top left cell first. A square image has as many cells as the input of the network has
        patches (14 x 14), one of another shape about as many in all. It costs as much as `VIEWS` ** 2 scores.
    """
    views = _cut(image)
    guidance = network.guide(views, [prompt] * len(views)) if network.guide else None
    class_tokens, stage_maps = network.backbone(views, network.injection, guidance)
    vector = network.msfa(class_tokens, stage_maps).mean(0)  # (f,)
    around = torch.stack([_around_cells(_join(stage_map)) for stage_map in stage_maps], 2)  # (rows, columns, stages, d)
    pooled = torch.stack([token.mean(0) for token in class_tokens]).expand_as(around)
    local = torch.cat([pooled, around], 3).flatten(2)  # as `pool_stage` orders them, stage after stage
    vectors = vector.expand(*local.shape[:2], -1).clone()
    vectors[..., : local.shape[2]] = local
    # a network of two views gets them as both
    scores = network.head(vectors.flatten(0, 1).repeat(1, network.views))[:, 0].view(local.shape[:2])
    return scores - scores.mean()


def _cut(image: Float[Tensor, '1 3 h w']) -> Float[Tensor, 'v 3 h2 w2']:
    """The image in `VIEWS` x `VIEWS` parts of one size, row after row; where sides do not divide, they overlap by a pixel."""
    height, width = image.shape[-2:]
    tall, wide = ceil(height / VIEWS), ceil(width / VIEWS)
    starts: Sequence[Sequence[int]] = [
        [round(i * (side - part) / (VIEWS - 1)) for i in range(VIEWS)] for side, part in ((height, tall), (width, wide))
    ]
    return torch.cat([image[:, :, top : top + tall, left : left + wide] for top in starts[0] for left in starts[1]])


def _join(stage_map: Float[Tensor, 'v d h w']) -> Float[Tensor, '1 d h2 w2']:
    """The maps of the parts as one map of the image."""
    return rearrange(stage_map, '(v u) d h w -> 1 d (v h) (u w)', v=VIEWS)


def _around_cells(stage_map: Float[Tensor, '1 d h w']) -> Float[Tensor, 'rows columns d']:
    """The mean of the tokens around each cell; at the border of the image, the window stays inside."""
    # an even number, so that the cell, which has two tokens, is in the middle
    tokens = max(TOKENS, TOKENS * round(WINDOW / TOKENS * prod(stage_map.shape[-2:]) ** 0.5))
    for axis in (2, 3):
        side = stage_map.shape[axis]
        window = min(tokens, side)
        kernel = (window, 1) if axis == 2 else (1, window)
        starts = torch.arange(side // TOKENS, device=stage_map.device) * TOKENS - (window - TOKENS) // 2
        stage_map = F.avg_pool2d(stage_map, kernel, 1).index_select(axis, starts.clamp(0, side - window))
    return rearrange(stage_map, '1 d h w -> h w d')
