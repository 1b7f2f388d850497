"""A head for each view of an image, and the weighted mean of their scores.

Guided features have learned from the labels that a head is then fitted to, so one regression on both views may trust them
more than they deserve on new images. Here fixed weights say how much each view counts (docs/experiments.md).
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from align_iqa_plugin.archs.deviation import scale_of
from align_iqa_plugin.archs.head import LinearHead
from align_iqa_plugin.archs.ridge import OrderedPairs


class ViewHeads(nn.Module):
    """Reads the vectors of all views, side by side, and does what a head does.

    Args:
        heads: one for each view.
        weights: of their scores, relative to each other.
    """

    def __init__(self, heads: Sequence[LinearHead], weights: Sequence[float]):
        super().__init__()
        self.heads: Any = nn.ModuleList(heads)
        self.weights = [weight / sum(weights) for weight in weights]
        ends = accumulate((len(head.mean) for head in heads), initial=0)
        self.parts = [slice(*pair) for pair in pairwise(ends)]

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of the MOS that the heads were fitted to, higher is better."""
        return self._mean([head(vector[:, part]) for head, part in self._each()])

    def fit(
        self,
        vectors: Float[Tensor, 'n d'],
        scores: Float[Tensor, 'n k'],
        *,
        columns: slice | list[int] = slice(None),
        weights: Float[Tensor, ' d'] | None = None,
        pairs: OrderedPairs | None = None,
        harmless: Float[Tensor, 'r d'] | None = None,
        **settings: Any,
    ) -> Float[Tensor, 'n k']:
        """Fit each head to the same scores; arguments, result and errors as of `LinearHead.fit`."""
        takes_part = torch.zeros(vectors.shape[1], dtype=torch.bool)
        takes_part[columns] = True
        left_out = [
            head.fit(
                vectors[:, part],
                scores,
                columns=takes_part[part].nonzero().flatten().tolist(),
                weights=None if weights is None else weights[part],
                pairs=None if pairs is None else pairs._replace(copies=pairs.copies[:, part]),
                harmless=None if harmless is None else harmless[:, part],
                **settings,
            )
            for head, part in self._each()
        ]
        return self._mean(left_out)

    def deviation(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k'] | None:
        """As of `LinearHead`: the weighted mean of the heads' deviations, an upper limit, since their errors partly cancel."""
        deviations = [head.deviation(vector[:, part]) for head, part in self._each()]
        known = [deviation for deviation in deviations if deviation is not None]
        return self._mean(known) if len(known) == len(deviations) else None

    @torch.no_grad()
    def calibrate(self, vectors: Float[Tensor, 'n d'], errors: Float[Tensor, ' n']) -> None:
        """As of `LinearHead`; the heads then share one scale."""
        if self.deviation(vectors) is not None:
            self._scale(1.0)
            unscaled: Any = self.deviation(vectors)
            self._scale(scale_of(errors, unscaled[:, 0].square().to(errors.dtype)))

    def kernel(self, vectors: Float[Tensor, 'b d'], others: Float[Tensor, 'c d']) -> Float[Tensor, 'b c']:
        """As of `LinearHead`: the weighted mean of the heads' kernels."""
        return self._mean([head.kernel(vectors[:, part], others[:, part]) for head, part in self._each()])

    def correct(self, vectors: Float[Tensor, 'n d'], coefficients: Float[Tensor, ' n'], *, slope: float, offset: float) -> None:
        """As of `LinearHead`."""
        for head, part in self._each():
            head.correct(vectors[:, part], coefficients, slope=slope, offset=offset)

    def _scale(self, scale: Tensor | float) -> None:
        for head in self.heads:
            head.error_scale[0] = scale

    def _each(self) -> Iterator[tuple[LinearHead, slice]]:
        return zip(self.heads, self.parts, strict=True)

    def _mean(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack([weight * value for weight, value in zip(self.weights, values, strict=True)]).sum(0)
