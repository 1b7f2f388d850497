"""A loss over several scores of an image, of which some may be missing."""

import inspect
from collections.abc import Sequence

import torch
from pyiqa.losses import build_loss
from pyiqa.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from align_iqa_plugin.models.process_group import world_size
from align_iqa_plugin.runtime.counts import counted

MARGIN = 2.0
"""Standard deviations of the MOS that a copy falls by when it loses everything."""


class ScoresLoss(nn.Module):
    """The weighted mean of one of pyiqa's losses over the scores of an image; only targets that exist count.

    Some of pyiqa's losses are computed for each image, such as `MSELoss`, others for the whole batch, such as a correlation.

    Args:
        key: of `train`, for messages.
        options: of that key: `type` and the keywords of the loss.
        accumulate: number of parts that a batch is cut into.

    Raises:
        ValueError: a reduction other than the mean, or a loss of the whole batch with `accumulate`.
    """

    def __init__(self, key: str, options: dict, *, accumulate: int):
        super().__init__()
        self.of_each_image = 'reduction' in inspect.signature(LOSS_REGISTRY.get(options['type'])).parameters
        if self.of_each_image:
            if options.get('reduction', 'mean') != 'mean':
                raise ValueError(f'train.{key}: unknown reduction {options["reduction"]!r}; only mean can be chosen.')
            options = options | {'reduction': 'none'}
        elif accumulate > 1:
            raise ValueError(f'train.{key}: {options["type"]} is a loss of the whole batch, so train.accumulate has to be 1.')
        self.criterion = build_loss(options)

    def forward(
        self, scores: Tensor, targets: Tensor, mask: Tensor, counts: Tensor, weights: Sequence[float] | None = None
    ) -> Tensor:
        """The loss of some rows of a batch; the losses of all parts and processes add up to that of the batch.

        A loss of the whole batch is computed on the rows of each process, and averaged.

        Args:
            scores: (b, k).
            targets: (b, k).
            mask: (b, k), whether a target exists.
            counts: (k,), how many targets exist in the whole batch.
            weights: of the k scores; 1 each by default.
        """
        weights = [1.0] * scores.shape[1] if weights is None else weights
        if len(weights) != scores.shape[1]:
            raise ValueError(
                f'train.score_weights has {counted(len(weights), "weight")} for {counted(scores.shape[1], "score")}.'
            )
        if self.of_each_image:
            errors = self.criterion(scores, torch.where(mask, targets, scores.detach()))
            columns = (errors * mask).sum(0) / counts.clamp_min(1)
        else:
            pairs = [(scores[rows, i : i + 1], targets[rows, i : i + 1]) for i, rows in enumerate(mask.T)]
            losses = [self.criterion(*pair) if len(pair[0]) > 1 else pair[0].sum() * 0 for pair in pairs]
            columns = torch.stack(losses) / world_size()
        factors = columns.new_tensor(weights)
        return (columns * factors).sum() / factors.sum()


def order_loss(differences: Tensor, lost: Tensor, weight: float = 1.0) -> Tensor:
    """The mean squared error by which copies break the order: a degraded one scores too high, a changed one moves the score.

    Args:
        differences: scores of images minus those of their copies, (b,), in standard deviations of the MOS.
        lost: the share of its image's score that each copy should lose, (b,); a degraded copy should fall by `MARGIN` times it
            or more, one that loses nothing should score as its image.
    """
    missing = torch.where(lost > 0, torch.relu(MARGIN * lost - differences), differences)
    return weight * missing.square().mean()
