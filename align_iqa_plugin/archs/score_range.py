"""The range of the ratings, inside which a score is kept where an image is optimised for it.

Ours; the paper has no score as a loss.
"""

import torch
from jaxtyping import Float
from torch import Tensor

USUAL = (0.0, 5.0)  # of AGIQA-3K
TAIL = 0.1  # share of the range at either end, in which scores are bent


def known_range(score_range: tuple[float, float] | None) -> tuple[float, float]:
    """A range for weights that may not state theirs: then that of AGIQA-3K, which most are trained on."""
    return score_range or USUAL


def limit_scores(scores: Float[Tensor, 'b k'], score_range: tuple[float, float] | None) -> Float[Tensor, 'b k']:
    """Scores of which the main one stays inside its range, so that nothing is gained by optimising an image beyond it.

    In the inner four fifths of the range a score is unchanged. In the outer tenth at either end and beyond, a tanh bends it,
    with a continuous second derivative, towards the end, which it does not pass. The gradient fades but keeps its sign, until
    the type cannot tell the score from the end.

    Args:
        scores: the main one first; the others have no known range and are left as they are.
        score_range: lowest and highest; None leaves all scores as they are.
    """
    if score_range is None:
        return scores
    low, high = score_range
    tail = TAIL * (high - low)
    inner = scores[:, :1].clamp(low + tail, high - tail)
    limited = inner + tail * ((scores[:, :1] - inner) / tail).tanh()
    return torch.cat([limited.clamp(low, high), scores[:, 1:]], 1)  # a rounding may lie outside


def is_optimised(image: Tensor) -> bool:
    """Whether gradients flow to the image, so that its score is a loss."""
    return torch.is_grad_enabled() and image.requires_grad
