"""Makes a kernel see less of what changes nothing: flips, small crops, and storing an image again.

Directions in which an image and its harmless copies differ are made shorter, as in within-class covariance normalisation
(Hatch, Kajarekar and Stolcke, "Within-class covariance normalization for SVM-based speaker recognition", Interspeech 2006).
Those in which no copy differs stay as they are.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Invariance(NamedTuple):
    """A symmetric linear map of standardised features.

    Attributes:
        directions: orthonormal, (d, r).
        shrinkage: by how much each becomes shorter, (r,), -1 to 0.
    """

    directions: Tensor
    shrinkage: Tensor

    @classmethod
    def of(cls, differences: Float[Tensor, 'r d'], strength: float) -> 'Invariance':
        """(I + strength * C)^(-1/2), where C is the mean of the outer products of the differences with themselves.

        Args:
            differences: of the standardised features of images and of their harmless copies.
            strength: 0 leaves all as it is.
        """
        if not len(differences) or not strength:
            return cls(differences.new_zeros(differences.shape[1], 0), differences.new_zeros(0))
        # the dual form: fewer copies than features
        variances, weights = torch.linalg.eigh((differences @ differences.T).double() / len(differences))
        kept = variances > variances[-1] * 1e-6
        variances, weights = variances[kept], weights[:, kept] / (len(differences) * variances[kept]).sqrt()
        return cls(differences.T @ weights.to(differences.dtype), (1 + strength * variances).rsqrt() - 1)

    def __call__(self, rows: Float[Tensor, 'n d']) -> Float[Tensor, 'n d']:
        """Rows, seen so."""
        directions, shrinkage = self.directions.to(rows.dtype), self.shrinkage.to(rows.dtype)
        return rows + (rows @ directions * shrinkage) @ directions.T
