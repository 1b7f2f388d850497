"""Vector in, scores out. The paper's head is unknown; ours is fitted in closed form, as kernel ridge regression.

A *linear* ridge regression on the stages of a frozen CLIP matches what the paper reports, and one with the sum of an RBF and a
linear kernel is better (docs/results.md). So the head is that regression, fitted to the features of the frozen trunk and then
left alone; training, if there is any, learns to move the features where the head errs. Fitting first also keeps the features
from being distorted while a head is still random (Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR 2022).
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class LinearHead(nn.Module):
    """`head: linear`: a linear map of standardised features, set by `fit` and never trained: all of it is buffers."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, *, width: int, targets: int = 1):
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('std', torch.ones(width))
        self.register_buffer('weight', torch.zeros(width, targets))
        self.register_buffer('bias', torch.zeros(targets))

    def standardise(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b d']:
        return (vector - self.mean) / self.std

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of the MOS that it was fitted to, higher is better."""
        return self.standardise(vector) @ self.weight + self.bias

    @torch.no_grad()
    def fit(
        self,
        vectors: Float[Tensor, 'n d'],
        scores: Float[Tensor, 'n k'],
        *,
        alpha: float,
        folds: list[int],
        columns: slice = slice(None),
        mask: Bool[Tensor, 'n k'] | None = None,
    ) -> Float[Tensor, 'n k']:
        """Become the ridge regression of each column of `scores` on the standardised `vectors`.

        Args:
            alpha: penalty on the squared weights.
            folds: a number for each row; rows that have to be predicted without each other, such as those of one prompt,
                share it.
            columns: the entries of the vector that take part; the others get weight zero.
            mask: False where a score is missing: the row takes no part in the regression of that target.

        Returns:
            What the regression predicts for each row when the rows of its fold are left out, also where a score is missing.
            Unlike what the fitted one predicts for the rows that it has seen, it errs as on unseen images.

        Raises:
            ValueError: all scores of a target are missing, or are in one fold.
        """
        x = self._set_scale(vectors)[:, columns].double()
        coefficients, bias, left_out = dual_ridge(x @ x.T, scores, alpha=alpha, folds=folds, mask=mask)
        self.weight.zero_()
        self.weight[columns] = (x.T @ coefficients.double()).to(self.weight.dtype)
        self.bias.copy_(bias)
        return left_out

    def _set_scale(self, vectors: Tensor) -> Tensor:
        self.mean.copy_(vectors.mean(0))
        self.std.copy_(vectors.std(0).clamp_min(1e-6))
        return self.standardise(vectors)


class KernelHead(LinearHead):
    """`head: kernel`: the same with the sum of an RBF kernel and a linear one.

    The RBF kernel sees the first principal components of the standardised features, the linear one all features.

    Args:
        width: of the vectors.
        targets: number of scores.
        components: number of principal components.
        gamma: of the RBF kernel, exp(-gamma * squared distance / half the mean squared distance of the fitted rows).
        linear: weight of the linear kernel, which is scaled so that the fitted rows' mean squared norm is 1.
    """

    projection: Tensor
    scale: Tensor
    support_vectors: Tensor
    coefficients: Tensor

    def __init__(self, *, width: int, targets: int = 1, components: int = 128, gamma: float = 0.3, linear: float = 0.1):
        super().__init__(width=width, targets=targets)
        self.gamma, self.linear = gamma, linear
        self.register_buffer('projection', torch.zeros(width, components))
        self.register_buffer('scale', torch.ones(()))
        # one row for each image of the fit
        self.register_buffer('support_vectors', torch.zeros(0, components))
        self.register_buffer('coefficients', torch.zeros(0, targets))

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of the MOS that it was fitted to, higher is better."""
        # large terms cancel in the distances and in their sum: in float32, the last digits of the features, which a batch
        # changes, would move the score a hundred times as much
        exact = torch.float32 if vector.device.type == 'mps' else torch.float64  # Apple's GPUs have no float64
        with torch.autocast(vector.device.type, enabled=False):
            x = self.standardise(vector.to(exact))
            rbf_term = self._rbf(x @ self.projection.to(exact)) @ self.coefficients.to(exact)
            return (rbf_term + x @ self.weight.to(exact) + self.bias).float()

    @torch.no_grad()
    def fit(
        self,
        vectors: Float[Tensor, 'n d'],
        scores: Float[Tensor, 'n k'],
        *,
        alpha: float,
        folds: list[int],
        columns: slice = slice(None),
        mask: Bool[Tensor, 'n k'] | None = None,
    ) -> Float[Tensor, 'n k']:
        """As `LinearHead.fit`; `alpha` is added to the diagonal of the kernels' sum, which is 1 + `linear` on average."""
        x = self._set_scale(vectors)[:, columns]
        gram = (x @ x.T).double()
        variances, directions = torch.linalg.eigh(gram)  # the dual form: fewer images than features
        kept = min(self.projection.shape[1], int((variances > variances[-1] * 1e-6).sum()))
        self.projection.zero_()
        self.projection[columns, :kept] = x.T @ (directions[:, -kept:] / variances[-kept:].sqrt()).to(x.dtype)
        self.support_vectors = x @ self.projection[columns]
        mean_square = torch.cdist(self.support_vectors, self.support_vectors).square().mean()
        self.scale.copy_(2 * self.gamma / mean_square)
        linear = self.linear / gram.diagonal().mean()
        kernel = self._rbf(self.support_vectors.double()) + linear * gram
        self.coefficients, bias, left_out = dual_ridge(kernel, scores, alpha=alpha, folds=folds, mask=mask)
        self.weight.zero_()
        self.weight[columns] = (linear * (x.T.double() @ self.coefficients.double())).to(self.weight.dtype)
        self.bias.copy_(bias)
        return left_out

    def _rbf(self, components: Float[Tensor, 'b c']) -> Float[Tensor, 'b n']:
        support_vectors = self.support_vectors.to(components.dtype)
        squares = (
            components.square().sum(1, keepdim=True) + support_vectors.square().sum(1) - 2 * components @ support_vectors.T
        )
        return torch.exp(-self.scale * squares.clamp_min(0))

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        # the number of support vectors is data: take that of the state, also where the network is part of another module
        for name in ('support_vectors', 'coefficients'):
            if f'{prefix}{name}' in state_dict:
                setattr(self, name, torch.empty_like(state_dict[f'{prefix}{name}'], device=self.bias.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class MLPHead(KernelHead):
    """`head: mlp`: the kernel's score, plus that of a perceptron of one hidden layer that starts at zero.

    For `msfa`, whose trained features a regression fitted before the training cannot read. With `stage_pool`, which has none,
    it added nothing.

    Args:
        width: of the vectors.
        targets: number of scores.
        hidden: width of the hidden layer, which all targets share.
        dropout: rate, 0 to 1, at which a training step drops standardised features and hidden units.
    """

    def __init__(self, *, width: int, targets: int = 1, hidden: int = 128, dropout: float = 0.5):
        super().__init__(width=width, targets=targets)
        last = nn.Linear(hidden, targets)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), last)

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of its MOS, higher is better."""
        return super().forward(vector) + self.mlp(self.standardise(vector))


def dual_ridge(
    gram: Float[Tensor, 'n n'],
    scores: Float[Tensor, 'n k'],
    *,
    alpha: float,
    folds: list[int],
    mask: Bool[Tensor, 'n k'] | None = None,
) -> tuple[Float[Tensor, 'n k'], Float[Tensor, ' k'], Float[Tensor, 'n k']]:
    """Ridge regression in its dual form: coefficients of the rows, constant, and each row's prediction without its fold."""
    fold_of = torch.tensor(folds, device=gram.device)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    for target, present in enumerate(mask.T):
        if len(fold_of[present].unique()) < 2:
            raise ValueError(f'target {target + 1} has {int(present.sum())} scores, in fewer than two folds: too few to fit.')

    def solve(rows: Tensor, y: Tensor) -> Tensor:
        # the penalty shrinks with the number of rows, so that all fits are equally smooth
        penalty = alpha * rows.sum() / len(gram)
        matrix = gram[rows][:, rows] + penalty * torch.eye(int(rows.sum()), dtype=gram.dtype, device=gram.device)
        return torch.linalg.solve(matrix, y[rows] - y[rows].mean(0))

    coefficients, left_out = torch.zeros_like(scores, dtype=gram.dtype), torch.empty_like(scores, dtype=gram.dtype)
    bias = torch.zeros_like(scores[0])
    for present in mask.T.unique(dim=0):  # targets that lack the same rows are solved together
        targets = (mask.T == present).all(1)
        y = scores[:, targets].to(gram.dtype)
        coefficients[present.nonzero(), targets] = solve(present, y)
        bias[targets] = y[present].mean(0).to(bias.dtype)
        for fold in fold_of.unique():
            unseen = fold_of == fold
            seen = present & ~unseen
            left_out[unseen.nonzero(), targets] = gram[unseen][:, seen] @ solve(seen, y) + y[seen].mean(0)
    return coefficients.to(scores.dtype), bias, left_out.to(scores.dtype)


HEADS: dict[str, type[LinearHead]] = {'kernel': KernelHead, 'linear': LinearHead, 'mlp': MLPHead}
