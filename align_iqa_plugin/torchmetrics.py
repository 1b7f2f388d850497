"""Align-IQA as a metric of torchmetrics: needs the extra `torchmetrics`.

from align_iqa_plugin.torchmetrics import AlignIQAScore
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.data import dim_zero_cat
except ImportError as error:
    raise ImportError("AlignIQAScore needs torchmetrics: pip install 'align-iqa-plugin[torchmetrics]'.") from error

from align_iqa_plugin.archs.pretrained import create_align_iqa

REDUCTIONS = ('mean', 'sum', 'none')


class AlignIQAScore(Metric):
    """Quality of images, without references: higher is better, about 0 to 5, the mean opinion scores of AGIQA-3K.

    The network stays frozen and in evaluation mode. Gradients reach images that require them; their scores are then limited to
    the range of the ratings, as of `AlignIQA.forward`.

    Args:
        pretrained_model_path: weights of your own, in place of the packaged ones; the scores have the unit of their ratings.
        reduction: 'mean' or 'sum' over all images, a scalar, or 'none', a score for each image, (n,).
        kwargs: keywords of `torchmetrics.Metric`.

    Raises:
        ValueError, FileNotFoundError: an unknown reduction, or weights that cannot be read.

    >>> metric = AlignIQAScore()
    >>> metric.update(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))  # RGB in [0, 1]: uniform noise
    >>> bool(metric.compute() < 2.5)
    True
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False
    feature_network = 'network'  # what torchmetrics shares between the metrics of a collection

    sum_scores: Tensor
    num_scores: Tensor
    scores: list[Tensor]

    def __init__(
        self,
        pretrained_model_path: str | None = None,
        reduction: Literal['mean', 'sum', 'none'] = 'mean',
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if reduction not in REDUCTIONS:
            raise ValueError(f"unknown reduction '{reduction}': choose from {', '.join(REDUCTIONS)}.")
        self.reduction = reduction
        network = create_align_iqa(pretrained=True, pretrained_model_path=pretrained_model_path)
        self.network = network.requires_grad_(False).eval()
        if reduction == 'none':
            self.add_state('scores', [], dist_reduce_fx='cat')
        else:
            self.add_state('sum_scores', torch.tensor(0.0), dist_reduce_fx='sum')
            self.add_state('num_scores', torch.tensor(0), dist_reduce_fx='sum')

    # properties, since torchmetrics forbids to set these attributes of an instance
    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """The lowest possible rating, where `plot` begins; None where the weights do not state it."""
        return self.network.score_range[0] if self.network.score_range else None

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """The highest possible rating."""
        return self.network.score_range[1] if self.network.score_range else None

    def train(self, mode: bool = True) -> 'AlignIQAScore':
        """The network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def update(self, images: Tensor, prompts: Sequence[str | None] | None = None) -> None:
        """Score images.

        Args:
            images: (n, 3, h, w) or (n, 1, h, w), floating-point, in [0, 1], sides of at least 32 pixels.
            prompts: one for each image; only weights with a guide that reads prompts use them.

        Raises:
            ValueError: an image is too small, or the images are not floating-point.
        """
        scores = self.network(images, prompts)[:, 0]
        if self.reduction == 'none':
            self.scores.append(scores)
        else:
            self.sum_scores = self.sum_scores + scores.sum()
            self.num_scores = self.num_scores + len(scores)

    def compute(self) -> Tensor:
        """The mean or the sum of the scores so far, or all of them in their order."""
        if self.reduction == 'none':
            return dim_zero_cat(self.scores)
        return self.sum_scores / self.num_scores if self.reduction == 'mean' else self.sum_scores

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Draw values, by default that of `compute`, on the scale of the ratings: a matplotlib figure and its axes.

        Args:
            val: a value, or one for each step.
            ax: matplotlib axes to draw into.
        """
        return self._plot(val, ax)
