"""The heads of a training: they are fitted before it, each without a fold of the images, and stay as they are.

A head that was fitted to an image errs less on it than on others, so a network that is trained against it learns what the head
remembers. Here each image is scored by the head that never saw it. They read the pooled stage features; what `msfa` adds to
these, a pyramid, is read by a linear map that is trained with it and starts at zero.
"""

import torch
from torch import Tensor, nn

from align_iqa_plugin.archs.head import LinearHead

FOLDS = 5


class FoldHeads(nn.Module):
    """Scores in units of the standard deviation of the training images' MOS, mean 0.

    Args:
        pooled_width: the entries of the vector that the fitted heads read, the first ones.
        width: of the vector; the trained map reads the others.

    Attributes:
        weight: of the heads, (folds + 1, pooled_width): one without each fold, and one that was fitted to all images.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, *, pooled_width: int, width: int):
        super().__init__()
        self.pooled_width = pooled_width
        self.register_buffer('mean', torch.zeros(pooled_width))
        self.register_buffer('std', torch.ones(pooled_width))
        self.register_buffer('weight', torch.zeros(FOLDS + 1, pooled_width))
        self.register_buffer('bias', torch.zeros(FOLDS + 1))
        self.register_buffer('scale', torch.tensor([0.0, 1.0]))  # mean and standard deviation of the MOS
        self.pyramid = nn.Linear(width - pooled_width, 1) if width > pooled_width else None
        if self.pyramid is not None:
            nn.init.zeros_(self.pyramid.weight)
            nn.init.zeros_(self.pyramid.bias)

    @torch.no_grad()
    def fit(self, vectors: Tensor, mos: Tensor, *, alpha: float, folds: Tensor) -> Tensor:
        """Fit all heads by ridge regression.

        Args:
            vectors: (n, width).
            mos: (n,).
            alpha: as of `LinearHead.fit`.
            folds: the fold of each row, (n,), 0 to FOLDS - 1.

        Returns:
            What the heads predict for the folds that they were not fitted to, (n,), in the unit of the MOS.

        Raises:
            ValueError: fewer than two folds have scores.
        """
        pooled = vectors[:, : self.pooled_width]
        self.mean.copy_(pooled.mean(0))
        self.std.copy_(pooled.std(0).clamp_min(1e-6))
        self.scale.copy_(torch.stack([mos.mean(), mos.std()]))
        for place in range(FOLDS + 1):
            seen = folds != place
            head = LinearHead(width=self.pooled_width).to(vectors.device)
            penalty = alpha * float(seen.float().mean())
            head.fit(pooled[seen], self.standardised(mos[seen])[:, None], alpha=penalty, folds=folds[seen].tolist())
            # in the scale of all images
            weight = head.weight[:, 0] * self.std / head.std
            self.weight[place] = weight
            self.bias[place] = head.bias[0] + ((self.mean - head.mean) / head.std) @ head.weight[:, 0]
        return self(vectors, folds) * self.scale[1] + self.scale[0]

    def standardised(self, mos: Tensor) -> Tensor:
        """MOS in the unit of the scores."""
        return (mos - self.scale[0]) / self.scale[1]

    def forward(self, vectors: Tensor, folds: Tensor | None = None) -> Tensor:
        """Scores (b,): of the heads that were not fitted to these folds, (b,), or of the one that was fitted to all images."""
        pooled = (vectors[:, : self.pooled_width] - self.mean) / self.std
        folds = torch.full((len(vectors),), FOLDS, device=vectors.device) if folds is None else folds
        scores = (pooled * self.weight[folds]).sum(1) + self.bias[folds]
        return scores if self.pyramid is None else scores + self.pyramid(vectors[:, self.pooled_width :])[:, 0]
