"""Multi-scale feature aggregation: stage maps in, one vector out.

Paper, appendix 1.4 and figure 2: MSFA builds a feature pyramid from the outputs of all stages, where ViTDet builds one from the
last map alone; depthwise-separable dilated convolutions fuse the scales (public summary). Ours: their order and widths, and the
statistics (class token, mean and standard deviation of every map) that stand beside the fused features in the vector.
"""

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

STRIDES = (0.25, 0.5, 1.0, 2.0)  # of a pyramid level, in patches; ViTDet's x4, x2, x1, x0.5
DILATIONS = (1, 2, 3)


def statistics(summary: Float[Tensor, 'b d'], stage_map: Float[Tensor, 'b d h w']) -> Float[Tensor, 'b d3']:
    """Class token, mean and standard deviation over positions, one after the other."""
    return torch.cat([summary, reduce(stage_map, 'b d h w -> b d', 'mean'), deviation(stage_map)], 1)


def deviation(stage_map: Float[Tensor, 'b d h w']) -> Float[Tensor, 'b d']:
    """Standard deviation over positions; the floor keeps the gradient of a flat map finite."""
    return (stage_map.var((-2, -1), correction=0) + 1e-6).sqrt()


class LastTokens(nn.Module):
    """`aggregation: none`: the statistics of the last stage alone."""

    def __init__(self, *, width: int, stages: int):
        super().__init__()
        self.width = self.statistics_width = 3 * width

    def forward(
        self, summaries: list[Float[Tensor, 'b d']], stage_maps: list[Float[Tensor, 'b d h w']]
    ) -> Float[Tensor, 'b d2']:
        return statistics(summaries[-1], stage_maps[-1])


class DilatedFusion(nn.Module):
    """Depthwise 3x3 convolutions at several dilations, summed, then pointwise, as a residual."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d, groups=width) for d in DILATIONS)
        self.norm = nn.GroupNorm(1, width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, 'b c h w']) -> Float[Tensor, 'b c h w']:
        return x + self.pointwise(F.gelu(self.norm(sum(conv(x) for conv in self.depthwise))))


class MSFA(nn.Module):
    """Stage maps to a pyramid, fused from coarse to fine, pooled; beside the statistics of every stage.

    Args:
        width: d, channels of the stage maps.
        stages: number of stage maps; the first (shallow) ones become the fine levels of the pyramid.
        channels: width of the pyramid.

    Attributes:
        width: of the vector: 3 d a stage, then 2 channels a level.
        statistics_width: of its first part, which holds no trained parameter.
    """

    def __init__(self, *, width: int, stages: int, channels: int = 96):
        super().__init__()
        self.statistics_width = stages * 3 * width
        self.width = self.statistics_width + len(STRIDES) * 2 * channels
        # level i takes the stage at the same relative depth
        self.stage_of_level = [round(i * (stages - 1) / (len(STRIDES) - 1)) for i in range(len(STRIDES))]
        self.reduce = nn.ModuleList(nn.Conv2d(width, channels, 1) for _ in STRIDES)
        self.norm = nn.ModuleList(nn.GroupNorm(1, channels) for _ in STRIDES)
        self.fuse = nn.ModuleList(DilatedFusion(channels) for _ in STRIDES)

    def forward(
        self, summaries: list[Float[Tensor, 'b d']], stage_maps: list[Float[Tensor, 'b d h w']]
    ) -> Float[Tensor, 'b d2']:
        """Shallow to deep in, one vector an image out."""
        vector = [statistics(*stage) for stage in zip(summaries, stage_maps, strict=True)]
        return torch.cat(vector + self.pyramid(stage_maps), 1)

    def pyramid(self, stage_maps: list[Float[Tensor, 'b d h w']]) -> list[Float[Tensor, 'b c2']]:
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
        return pooled


class LastMapPyramid(MSFA):
    """`aggregation: last_map`: the same pyramid and statistics, from the last stage's map alone (after ViTDet)."""

    def __init__(self, *, width: int, stages: int, channels: int = 96):
        super().__init__(width=width, stages=1, channels=channels)

    def forward(
        self, summaries: list[Float[Tensor, 'b d']], stage_maps: list[Float[Tensor, 'b d h w']]
    ) -> Float[Tensor, 'b d2']:
        return super().forward(summaries[-1:], stage_maps[-1:])


AGGREGATIONS = {'msfa': MSFA, 'last_map': LastMapPyramid, 'none': LastTokens}
