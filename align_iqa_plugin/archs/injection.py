"""How guidance enters the ViT: CGI, and the two strategies of visual prompt tuning that the paper compares it with.

Paper, appendix 1.3 and figure 1: "VPT-add" sums the guide with the image embedding, "VPT-concat" concatenates them. CGI's own
equations are not in the appendix. Ours: a bottleneck with cross-attention from the image's tokens to the guidance and a gate
that starts at zero, after LoDa (one bottleneck cross-attention a block) and ViT-Adapter (a zero-initialised gate in R^d).
"""

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from align_iqa_plugin.runtime.counts import counted


class Injection(nn.ModuleDict):
    """Layers by the number of the block that each enters before, such as ``{'11': layer}``.

    A layer maps tokens (b, n, d) and guidance (b, g, e) to tokens, and does not know its block.

    Attributes:
        blocks: their numbers, in order.

    Args:
        layer: makes one layer.
        blocks: numbers of blocks, from 0; negative ones count from the last block.
        depth: number of blocks of the ViT.

    Raises:
        ValueError: the ViT has no such block.
    """

    def __init__(self, layer: Callable[[], nn.Module], *, blocks: Sequence[int], depth: int):
        unknown = [block for block in blocks if block not in range(-depth, depth)]
        if unknown or not blocks:
            raise ValueError(
                f'blocks is {list(blocks)}, but the backbone has {counted(depth, "block")}: choose from 0 to {depth - 1}.'
            )
        self.blocks = sorted({block % depth for block in blocks})
        super().__init__({str(block): layer() for block in self.blocks})


class BottleneckCrossAttention(nn.Module):
    """``tokens + gate * up(gelu(h + attention(h, guidance)))`` with ``h = down(norm(tokens))``; gate in R^d, zero at first."""

    def __init__(self, *, width: int, guidance_width: int, bottleneck: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.norm_guidance = nn.LayerNorm(guidance_width)
        self.attention = nn.MultiheadAttention(bottleneck, heads, kdim=guidance_width, vdim=guidance_width, batch_first=True)
        self.up = nn.Linear(bottleneck, width)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Float[Tensor, 'b n d'], guidance: Float[Tensor, 'b g e']) -> Float[Tensor, 'b n d']:
        hidden = self.down(self.norm(tokens))  # b n bottleneck
        guidance = self.norm_guidance(guidance)
        hidden = hidden + self.attention(hidden, guidance, guidance, need_weights=False)[0]
        return tokens + self.gate * self.up(nn.functional.gelu(hidden))


def _projection(guidance_width: int, width: int) -> nn.Linear:
    """From normalised guidance tokens to tokens as small as VPT's prompts at first, so that the ViT still works.

    VPT draws its prompts uniformly up to sqrt(6 / (3 p^2 + d)) for patches of p pixels, which is sqrt(3 / d) for a ViT-B/16.
    """
    layer = nn.Linear(guidance_width, width)
    bound = sqrt(3 / width) / sqrt(guidance_width)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


class AddGuidance(nn.Module):
    """The mean guidance token, projected, is added to every token. No gate."""

    def __init__(self, *, width: int, guidance_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(guidance_width)
        self.project = _projection(guidance_width, width)

    def forward(self, tokens: Float[Tensor, 'b n d'], guidance: Float[Tensor, 'b g e']) -> Float[Tensor, 'b n d']:
        return tokens + self.project(self.norm(guidance).mean(1, keepdim=True))


class AppendGuidance(nn.Module):
    """The guidance tokens, projected, follow the patch tokens from here on. No gate."""

    def __init__(self, *, width: int, guidance_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(guidance_width)
        self.project = _projection(guidance_width, width)

    def forward(self, tokens: Float[Tensor, 'b n d'], guidance: Float[Tensor, 'b g e']) -> Float[Tensor, 'b m d']:
        return torch.cat([tokens, self.project(self.norm(guidance))], 1)


class CGI(Injection):
    """Customizable guidance injection; with zero gates the plain ViT, bit for bit.

    Args:
        width: d, the width of the ViT's tokens.
        guidance_width: e, the width of the guidance tokens.
        depth: number of blocks of the ViT.
        blocks: the blocks that guidance is injected before. By default the last three (ours: the paper does not say which).
        bottleneck: width inside a layer.
        heads: attention heads inside a layer, after LoDa (4).
    """

    def __init__(
        self,
        *,
        width: int,
        guidance_width: int,
        depth: int,
        blocks: Sequence[int] = (-3, -2, -1),
        bottleneck: int = 128,
        heads: int = 4,
    ):
        def layer() -> nn.Module:
            return BottleneckCrossAttention(width=width, guidance_width=guidance_width, bottleneck=bottleneck, heads=heads)

        super().__init__(layer, blocks=blocks, depth=depth)


class VPTAdd(Injection):
    """VPT-add: guidance is summed with the embedding, by default before the first block; arguments as of `CGI`."""

    def __init__(self, *, width: int, guidance_width: int, depth: int, blocks: Sequence[int] = (0,)):
        super().__init__(lambda: AddGuidance(width=width, guidance_width=guidance_width), blocks=blocks, depth=depth)


class VPTConcat(Injection):
    """VPT-concat: guidance is concatenated with the embedding, by default before the first block; arguments as of `CGI`."""

    def __init__(self, *, width: int, guidance_width: int, depth: int, blocks: Sequence[int] = (0,)):
        super().__init__(lambda: AppendGuidance(width=width, guidance_width=guidance_width), blocks=blocks, depth=depth)


INJECTIONS: dict[str, type[Injection]] = {'cgi': CGI, 'vpt_add': VPTAdd, 'vpt_concat': VPTConcat}
