"""Multi-scale feature aggregation: class tokens and maps of the stages in, one vector out.

Paper, appendix 1.4 and figure 2: MSFA aggregates the outputs of all stages, where ViTDet builds a pyramid from the last map
alone; depthwise-separable dilated convolutions fuse the scales (public summary). Ours: the order and the widths of the pyramid,
and the pooled stage features in front of it: of every stage the class token (the whole image) and the mean of the central
tokens (the subject), which alone are `stage_pool`. The paper's "last map only" is `msfa` with one stage.
"""

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

STRIDES = (0.25, 0.5, 1.0, 2.0)  # of a pyramid level, in patches; ViTDet's x4, x2, x1, x0.5
DILATIONS = (1, 2, 3)
CENTRE = 3 / 7  # 6 of 14 patches: best of 4, 6, 8, 10 and 14 in cross-validation on training prompts


def pool_stage(class_token: Float[Tensor, 'b d'], stage_map: Float[Tensor, 'b d h w']) -> Float[Tensor, 'b d2']:
    """Pooled features of a stage: its class token, then the mean over the central part of its map, `CENTRE` of either side."""
    rows, columns = (max(1, round(side * CENTRE)) for side in stage_map.shape[-2:])
    top, left = (stage_map.shape[-2] - rows) // 2, (stage_map.shape[-1] - columns) // 2
    centre = stage_map[:, :, top : top + rows, left : left + columns]
    return torch.cat([class_token, reduce(centre, 'b d h w -> b d', 'mean')], 1)


def pool_stages(class_tokens: list[Float[Tensor, 'b d']], stage_maps: list[Float[Tensor, 'b d h w']]) -> Float[Tensor, 'b f']:
    """Pooled features of all stages, shallow to deep, 2 d for each."""
    return torch.cat([pool_stage(*stage) for stage in zip(class_tokens, stage_maps, strict=True)], 1)


class StagePool(nn.Module):
    """`aggregation: stage_pool`: the pooled features of every stage, shallow to deep. It has no parameters.

    Args:
        width: d, channels of the stage maps.
        stages: number of stage maps.

    Attributes:
        width: of the vector, 2 d for each stage.
        pooled_width: of the leading part of the vector that depends on no trained parameter of the aggregation; here all of it.
    """

    def __init__(self, *, width: int, stages: int):
        super().__init__()
        self.width = self.pooled_width = stages * 2 * width

    def forward(
        self, class_tokens: list[Float[Tensor, 'b d']], stage_maps: list[Float[Tensor, 'b d h w']]
    ) -> Float[Tensor, 'b f']:
        """One vector for each image, from its stages, shallow to deep."""
        return pool_stages(class_tokens, stage_maps)


class MSFA(StagePool):
    """`aggregation: msfa`: the pooled stage features, then a pyramid of the stage maps, fused from coarse to fine and pooled.

    Args:
        width: d, channels of the stage maps.
        stages: number of stage maps; the first (shallow) ones become the fine levels of the pyramid.
        channels: width of the pyramid.

    Attributes:
        width: of the vector: 2 d for each stage, then 2 channels for each level.
        pooled_width: as of `StagePool`.
    """

    def __init__(self, *, width: int, stages: int, channels: int = 96):
        super().__init__(width=width, stages=stages)
        self.width = self.pooled_width + len(STRIDES) * 2 * channels
        # level i takes the stage at the same relative depth
        self.stage_of_level = [round(i * (stages - 1) / (len(STRIDES) - 1)) for i in range(len(STRIDES))]
        self.reduce = nn.ModuleList(nn.Conv2d(width, channels, 1) for _ in STRIDES)
        self.norm = nn.ModuleList(nn.GroupNorm(1, channels) for _ in STRIDES)
        self.fuse = nn.ModuleList(DilatedFusion(channels) for _ in STRIDES)

    def forward(
        self, class_tokens: list[Float[Tensor, 'b d']], stage_maps: list[Float[Tensor, 'b d h w']]
    ) -> Float[Tensor, 'b f']:
        """One vector for each image, from its stages, shallow to deep."""
        return torch.cat([pool_stages(class_tokens, stage_maps), self.pyramid(stage_maps)], 1)

    def pyramid(self, stage_maps: list[Float[Tensor, 'b d h w']]) -> Float[Tensor, 'b c2']:
        """Mean and standard deviation of every level of the pyramid, coarse to fine."""
        rows, columns = stage_maps[0].shape[-2:]
        pooled, coarser = [], None
        for level in reversed(range(len(STRIDES))):
            x = self.norm[level](self.reduce[level](stage_maps[self.stage_of_level[level]]))
            size = [max(1, round(side / STRIDES[level])) for side in (rows, columns)]
            x = F.interpolate(x, size=size, mode='bilinear', align_corners=False)
            if coarser is not None:
                x = x + F.interpolate(coarser, size=size, mode='bilinear', align_corners=False)
            coarser = self.fuse[level](x)
            pooled += [reduce(coarser, 'b c h w -> b c', 'mean'), deviation(coarser)]
        return torch.cat(pooled, 1)


class DilatedFusion(nn.Module):
    """Depthwise 3x3 convolutions at several dilations, summed, then pointwise, as a residual."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d, groups=width) for d in DILATIONS)
        self.norm = nn.GroupNorm(1, width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, 'b c h w']) -> Float[Tensor, 'b c h w']:
        scales = torch.stack([convolution(x) for convolution in self.depthwise])
        return x + self.pointwise(F.gelu(self.norm(scales.sum(0))))


def deviation(stage_map: Float[Tensor, 'b d h w']) -> Float[Tensor, 'b d']:
    """Standard deviation over positions; the floor keeps the gradient of a flat map finite."""
    return (stage_map.var((-2, -1), correction=0) + 1e-6).sqrt()


AGGREGATIONS: dict[str, type[StagePool]] = {'msfa': MSFA, 'stage_pool': StagePool}
