"""Where an image is better and where it is worse, read from the tokens around each place.

A score hardly says which part of the image made it: the class token sees all of it, and the head reads the mean of the centre.
So a map has a direction of its own in the space of the stages' tokens, fitted in closed form (`MapFit`) to images and degraded
copies of them, without any rating: along it the cells of a copy fall, and those of an image that nobody degraded differ little,
whatever they show. This is Fisher's linear discriminant (1936), with a ridge.

Ours: the paper has no map. The size of the window and the ridge were chosen on validation images; docs/explain.md says how
often a map points at a part that was degraded.
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
WINDOW = 3 / 14  # side of the square that a cell is read from, of the side of a square image: 6 tokens of 28
RIDGE = 1.0  # of the correlation matrix of the tokens


@torch.no_grad()
def quality_map(
    network: AlignIQA, direction: Float[Tensor, ' f'], image: Float[Tensor, '1 3 h w'], prompt: str | None = None
) -> Float[Tensor, 'rows columns']:
    """How much better each cell of an image is than the others, or worse where it is negative; on average over the cells 0.

    Args:
        network: the one that the direction was fitted for.
        direction: as `MapFit` gives it.
        image: RGB in [0, 1], at least 32 x 32 pixels.
        prompt: of the image; only a guide that reads prompts uses it.

    Returns:
        In the unit of the direction, the top left cell first: a cell of -0.1 is worse by what a copy loses that scores 0.1
        less. A square image has as many cells as the input of the network has patches (14 x 14), one of another shape about as
        many in all. It costs as much as `VIEWS` ** 2 scores of one view.
    """
    quality = cells(network, image, prompt) @ direction
    return quality - quality.mean()


@torch.no_grad()
def cells(network: AlignIQA, image: Float[Tensor, '1 3 h w'], prompt: str | None = None) -> Float[Tensor, 'rows columns f']:
    """The mean token around each cell, of every stage, where each quarter of the image is seen as if it were an image."""
    views = _cut(image)
    _, stage_maps = network.stages(views, [prompt] * len(views))
    return torch.cat([_around_cells(_join(stage_map)) for stage_map in stage_maps], 2)


class MapFit:
    """Fits the direction of the maps of a network, an image at a time.

    Args:
        network: trained, in evaluation mode.
    """

    def __init__(self, network: AlignIQA):
        self.network = network
        width = len(network.backbone.stage_ends) * network.backbone.width
        self.cell_count = self.copy_count = 0
        self.products = torch.zeros(width, width, dtype=torch.float64)
        self.falls = torch.zeros(width, dtype=torch.float64)
        self.lost = 0.0

    @torch.no_grad()
    def add(self, image: Float[Tensor, '1 3 h w'], copies: Sequence[Float[Tensor, '1 3 h w']]) -> None:
        """Take a good image, and copies that are degraded all over, of the same size."""
        clean = cells(self.network, image).flatten(0, 1).double().cpu()
        mean, score = clean.mean(0), self._score(image)
        apart = clean - mean
        self.products += apart.T @ apart
        self.cell_count += len(clean)
        for copy in copies:
            self.falls += mean - cells(self.network, copy).flatten(0, 1).double().cpu().mean(0)
            self.lost += score - self._score(copy)
            self.copy_count += 1

    def direction(self) -> Float[Tensor, ' f']:
        """The direction; along it the cells of the copies fall, on average, by what the copies lose of the score.

        Raises:
            ValueError: the copies do not score lower, or there are none: their images are as bad, or all alike.
        """
        if not self.copy_count or self.lost <= 0:
            raise ValueError('the degraded copies of these images do not score lower than the images: take better ones.')
        deviations = (self.products.diagonal() / self.cell_count).sqrt().clamp_min(1e-6)
        correlations = self.products / self.cell_count / deviations.outer(deviations)
        correlations.diagonal().add_(RIDGE)
        falls = self.falls / self.copy_count / deviations
        solved = torch.linalg.solve(correlations, falls)
        return (solved / deviations * (self.lost / self.copy_count) / (falls @ solved)).float()

    def _score(self, image: Tensor) -> float:
        return float(self.network(image)[0, 0])


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
