"""How guidance enters the ViT: CGI, and the two strategies of visual prompt tuning that the paper compares it with.

Paper, appendix 1.3 and figure 1: "VPT-add" sums the guide with the image embedding, "VPT-concat" concatenates them; CGI's own
equations are not in the appendix. Ours: a bottleneck with cross-attention from the image's tokens to the guidance and a gate
that starts at zero, after LoDa (one bottleneck cross-attention a block) and ViT-Adapter (a zero-initialised gate in R^d).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class NoInjection(nn.Module):
    """The plain ViT."""

    def __init__(self, *, depth: int):
        super().__init__()
        self.first_block = depth

    def forward(self, block: int, tokens: Float[Tensor, 'b n d'], guidance: None) -> Float[Tensor, 'b n d']:
        return tokens


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


class CGI(nn.Module):
    """Customizable guidance injection before each block from `first_block` on; with zero gates the plain ViT, bit for bit.

    Args:
        width: d, the width of the ViT's tokens.
        guidance_width: e, the width of the guidance tokens.
        depth: number of blocks of the ViT.
        first_block: index of the first block that guidance is injected before; those before it stay the plain ViT's. By
            default the last of 12 (ours: the paper does not say where guidance enters; the last three together were no better
            on validation, and cost twice the training time).
        bottleneck: width inside.
        heads: attention heads inside, after LoDa (4).
    """

    def __init__(
        self,
        *,
        width: int,
        guidance_width: int,
        depth: int,
        first_block: int = 11,
        bottleneck: int = 128,
        heads: int = 4,
    ):
        super().__init__()
        self.first_block = _checked(first_block, depth)
        self.blocks = nn.ModuleList(
            BottleneckCrossAttention(width=width, guidance_width=guidance_width, bottleneck=bottleneck, heads=heads)
            for _ in range(first_block, depth)
        )

    def forward(self, block: int, tokens: Float[Tensor, 'b n d'], guidance: Float[Tensor, 'b g e']) -> Float[Tensor, 'b n d']:
        return tokens if block < self.first_block else self.blocks[block - self.first_block](tokens, guidance)


class VPTAdd(nn.Module):
    """VPT-add: the mean guidance token, projected, is added to every token as it enters block `first_block`. No gate."""

    def __init__(self, *, width: int, guidance_width: int, depth: int, first_block: int = 11):
        super().__init__()
        self.first_block = _checked(first_block, depth)
        self.norm = nn.LayerNorm(guidance_width)
        self.project = nn.Linear(guidance_width, width)

    def forward(self, block: int, tokens: Float[Tensor, 'b n d'], guidance: Float[Tensor, 'b g e']) -> Float[Tensor, 'b n d']:
        return tokens + self.project(self.norm(guidance).mean(1, keepdim=True)) if block == self.first_block else tokens


class VPTConcat(nn.Module):
    """VPT-concat: the guidance tokens, projected, follow the patch tokens from block `first_block` on. No gate."""

    def __init__(self, *, width: int, guidance_width: int, depth: int, first_block: int = 11):
        super().__init__()
        self.first_block = _checked(first_block, depth)
        self.norm = nn.LayerNorm(guidance_width)
        self.project = nn.Linear(guidance_width, width)

    def forward(self, block: int, tokens: Float[Tensor, 'b n d'], guidance: Float[Tensor, 'b g e']) -> Float[Tensor, 'b m d']:
        return torch.cat([tokens, self.project(self.norm(guidance))], 1) if block == self.first_block else tokens


def _checked(first_block: int, depth: int) -> int:
    if not 0 <= first_block < depth:
        raise ValueError(f'first_block={first_block} is not possible: the backbone has {depth} blocks, 0 to {depth - 1}.')
    return first_block


# An injection is called before every block from its `first_block` on, as forward(block, tokens, guidance) -> tokens.
INJECTIONS = {'cgi': CGI, 'vpt_add': VPTAdd, 'vpt_concat': VPTConcat}
