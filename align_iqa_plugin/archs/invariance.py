"""Makes a kernel see less of what changes nothing: flips, small crops, and storing an image again.

Directions in which an image and its harmless copies differ are made shorter, as in within-class covariance normalisation
(Hatch, Kajarekar and Stolcke, "Within-class covariance normalization for SVM-based speaker recognition", Interspeech 2006).
Those in which no copy differs stay as they are.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from align_iqa_plugin.archs.ridge import OrderedPairs


class Invariance(NamedTuple):
    """A symmetric linear map of standardised features.

    Attributes:
        directions: orthonormal, (d, r).
        shrinkage: by how much each becomes shorter, (r,), -1 to 0.
    """

    directions: Tensor
    shrinkage: Tensor

    @classmethod
    def of(cls, points: Float[Tensor, 'm d'], pairs: OrderedPairs | None, strength: float) -> 'Invariance':
        """(I + strength * C)^(-1/2), where C is the mean of (row - copy)(row - copy)' of the pairs that are alike.

        Args:
            points: the rated rows, then the copies of `pairs`.
            strength: 0 leaves all as it is.
        """
        if pairs is None or not pairs.alike or not strength:
            return cls(points.new_zeros(points.shape[1], 0), points.new_zeros(0))
        first_copy = len(points) - len(pairs.rows)
        rows, copies = zip(*((pairs.rows[pair], first_copy + pair) for pair in pairs.alike), strict=True)
        differences = (points[list(rows)] - points[list(copies)]).double() / len(rows) ** 0.5
        _, sizes, directions = torch.linalg.svd(differences, full_matrices=False)
        return cls(directions.T, (1 + strength * sizes.square()).rsqrt() - 1)

    def __call__(self, rows: Float[Tensor, 'n d']) -> Float[Tensor, 'n d']:
        """Rows, seen so."""
        directions, shrinkage = self.directions.to(rows.dtype), self.shrinkage.to(rows.dtype)
        return rows + (rows @ directions * shrinkage) @ directions.T
