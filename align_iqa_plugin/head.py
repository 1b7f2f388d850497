"""Vector in, scores out. The paper's head is unknown; ours begins as a ridge regression and learns what that one misses.

A ridge regression on the statistics of frozen CLIP stages is as good as what the paper reports (README, results). So the head
is that regression, fitted in closed form and then left alone, plus a small perceptron that starts at zero. Linear probing
before fine-tuning also keeps the features from being distorted while a head is still random (Kumar et al., "Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class LinearProbe(nn.Module):
    """A linear map of standardised features, set by `fit` and never trained: all of it is buffers."""

    def __init__(self, *, width: int, targets: int = 1):
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('std', torch.ones(width))
        self.register_buffer('weight', torch.zeros(width, targets))
        self.register_buffer('bias', torch.zeros(targets))

    def standardise(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b d']:
        return (vector - self.mean) / self.std

    def forward(self, standardised: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        return standardised @ self.weight + self.bias

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
        fold_of = torch.tensor(folds, device=vectors.device)
        mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        for target, present in enumerate(mask.T):
            if len(fold_of[present].unique()) < 2:
                raise ValueError(f'target {target + 1} has {int(present.sum())} scores in less than two folds: too few to fit.')
        self.mean.copy_(vectors.mean(0))
        self.std.copy_(vectors.std(0).clamp_min(1e-6))
        x = self.standardise(vectors)[:, columns].double()
        gram = x @ x.T  # the dual form: there are fewer images than features

        def solve(rows: Tensor, y: Tensor) -> Tensor:
            # as many rows as are left carry as large a share of the penalty, so that all fits are equally smooth
            penalty = alpha * rows.sum() / len(x)
            kernel = gram[rows][:, rows] + penalty * torch.eye(int(rows.sum()), dtype=x.dtype, device=x.device)
            return torch.linalg.solve(kernel, y[rows] - y[rows].mean(0))

        self.weight.zero_()
        left_out = torch.empty_like(scores, dtype=x.dtype)
        for present in mask.T.unique(dim=0):  # targets that lack the same rows are solved together
            targets = (mask.T == present).all(1)
            y = scores[:, targets].double()
            self.weight[columns, targets] = (x[present].T @ solve(present, y)).to(self.weight.dtype)
            self.bias[targets] = y[present].mean(0).to(self.bias.dtype)
            for fold in fold_of.unique():
                unseen = fold_of == fold
                seen = present & ~unseen
                left_out[unseen.nonzero(), targets] = gram[unseen][:, seen] @ solve(seen, y) + y[seen].mean(0)
        return left_out.to(scores.dtype)


class LinearHead(nn.Module):
    """`head: linear`: the probe alone; training changes what it reads, not how."""

    def __init__(self, *, width: int, targets: int = 1):
        super().__init__()
        self.probe = LinearProbe(width=width, targets=targets)

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of the opinion scores that the probe was fitted to, higher is better."""
        return self.probe(self.probe.standardise(vector))


class MLPHead(LinearHead):
    """`head: mlp`: the probe, plus a perceptron of one hidden layer that starts at zero.

    Args:
        width: of the vectors.
        targets: number of scores.
        hidden: width of the hidden layer, which all targets share.
        dropout: share of the standardised features, and of the hidden units, that a training step leaves out.
    """

    def __init__(self, *, width: int, targets: int = 1, hidden: int = 128, dropout: float = 0.5):
        super().__init__(width=width, targets=targets)
        self.mlp = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, targets)
        )
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, vector: Float[Tensor, 'b d']) -> Float[Tensor, 'b k']:
        """A score for each target, in the unit of its opinion scores, higher is better."""
        standardised = self.probe.standardise(vector)
        return self.probe(standardised) + self.mlp(standardised)


HEADS = {'mlp': MLPHead, 'linear': LinearHead}
