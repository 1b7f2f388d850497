"""How far a kernel regression may be off: the deviation of its posterior as a Gaussian process, from a part of its rows.

    std(x)^2 = scale^2 (noise + k(x, x) - |F^T k_m(x)|^2)

The regression is the mean of a Gaussian process whose noise is its penalty. What the fitted rows say about x is taken off the
variance k(x, x), so the deviation grows away from them. An exact F would be as large as the gram matrix (100 MB and more); here
it reads the kernel to `POINTS` of the rows, the inducing points (Quinonero-Candela and Rasmussen, JMLR 2005, section 5, "DTC"),
and the other rows through them. The scale makes the intervals hold on rows that a fit has left out.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from align_iqa_plugin.runtime.interval import Z

POINTS = 512
"""256 and 512 were compared (docs/results.md); a file has 4 * 512^2 bytes of F."""


def chosen_points(count: int) -> Int[Tensor, ' m']:
    """Numbers of the inducing points among the rows, evenly spaced: like the rows themselves, and the same every time."""
    return torch.linspace(0, count - 1, min(count, POINTS)).round().long()


def explained_factor(
    gram: Float[Tensor, 'm m'], kernel: Float[Tensor, 'n m'], own: Float[Tensor, ' n'], noise: float, folds: Int[Tensor, ' n']
) -> tuple[Float[Tensor, 'm m'], Float[Tensor, ' n']]:
    """F, and the variance at each row, over that of the process, when its fold is left out.

    Args:
        gram: the kernel between the inducing points.
        kernel: of each row to them.
        own: of each row to itself.
        noise: for all rows; a fit to fewer has a smaller one, as in `dual_ridge`.
    """
    # rows that are nearly the same make the gram matrix singular
    root = torch.linalg.cholesky(gram + 1e-4 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    features = torch.linalg.solve_triangular(root, kernel.T, upper=False).T  # (n, m), whose products approximate the kernel

    def explained(seen: Tensor) -> Tensor:
        """(m, m), which gives of the features of x what these rows explain."""
        values, vectors = torch.linalg.eigh(features[seen].T @ features[seen])
        values = values.clamp_min(0)
        return vectors * (values / (values + noise * len(folds[seen]) / len(folds))).sqrt()

    variance = torch.empty_like(own)
    for fold in folds.unique():
        unseen = folds == fold
        variance[unseen] = own[unseen] - (features[unseen] @ explained(~unseen)).square().sum(1)
    factor = torch.linalg.solve_triangular(root.T, explained(folds == folds), upper=True)
    return factor, noise + variance.clamp_min(0)


def scale_of(errors: Float[Tensor, ' n'], variance: Float[Tensor, ' n']) -> Tensor:
    """The factor of the deviations with which 90 % of the errors lie within `Z` deviations."""
    return (errors.abs() / variance.sqrt()).quantile(0.9) / Z
