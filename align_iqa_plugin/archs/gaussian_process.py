"""Gaussian process regression of a few ratings, with a score that is there already as the prior's mean.

    rating = offset + slope * prior + g(image) + noise,    g ~ GP(0, kernel)

Offset and slope put the prior on the scale of the ratings; g corrects it where the ratings say so, smoothly in the features of
the images. With few ratings g stays small, and the order of the images is that of the prior. How far to trust the prior, the
variance of the noise over that of g, is not one number but an average over several, each weighted by how well it predicts the
ratings that are left out (pseudo-likelihood: Geisser and Eddy, 1979), so that a few lucky ratings do not decide.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

NOISE = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
"""Variances of the noise over that of g; at 1000, g is next to nothing."""

USUAL_NOISE, SPREAD = 3.0, 3.0
"""Before any rating: the noise is log-normal around 3, by a factor of 3. Chosen on AGIQA-3K (docs/fit.md)."""

RATERS = 10.0
"""Variance of what a rater adds to all ratings, over that of the noise: large, since scales are used differently."""


class Posterior(NamedTuple):
    """What was learned, in the unit of the ratings.

    Attributes:
        slope: of the prior, not negative.
        offset: of the scores; 0 where only differences were rated.
        coefficients: of the kernel at each point, (p,).
        left_out: each rating as it is predicted without the ratings of its group, (m,).
    """

    slope: Tensor
    offset: Tensor
    coefficients: Tensor
    left_out: Tensor


def posterior(
    gram: Float[Tensor, 'p p'],
    prior: Float[Tensor, ' p'],
    design: Float[Tensor, 'm p'],
    ratings: Float[Tensor, ' m'],
    groups: Int[Tensor, ' m'],
    raters: Int[Tensor, ' m'] | None = None,
) -> Posterior:
    """Fit the ratings.

    Args:
        gram: the kernel between points, whose diagonal is about 1.
        prior: the score of each point.
        design: what each rating is of: a row with a 1 at a point, or with a 1 and a -1, for a difference.
        ratings: mean opinion scores, single opinions, or differences.
        groups: ratings that are left out together, such as those of one prompt.
        raters: who gave each rating; who gave several may rate all of them higher or lower than others would.

    Raises:
        ValueError: all ratings are in one group.
    """
    if len(groups.unique()) < 2:
        raise ValueError('all ratings are of one prompt or image, so that none can be left out.')
    columns = design @ torch.stack([torch.ones_like(prior), prior], 1)
    constant = columns[:, :1] if columns[:, 0].any() else columns[:, :0]
    kernel = design @ gram @ design.T
    noise = torch.eye(len(ratings), dtype=gram.dtype, device=gram.device)
    if raters is not None:
        same = (raters[:, None] == raters).to(gram.dtype)
        noise = noise + RATERS * same * (same.sum(1) > 1)
    found = []
    for ratio in NOISE:
        inverse = torch.linalg.inv(kernel + ratio * noise)
        fitted = _generalised(inverse, torch.cat([constant, columns[:, 1:]], 1), ratings, groups)
        if fitted[0][-1] < 0:  # the prior contradicts the ratings, so it says nothing
            slopes, weights, left_out = _generalised(inverse, constant, ratings, groups)
            fitted = torch.cat([slopes, slopes.new_zeros(1)]), weights, left_out
        found.append(fitted)
    slopes, weights, left_out = (torch.stack(each) for each in zip(*found, strict=True))
    ratios = torch.tensor(NOISE, dtype=gram.dtype, device=gram.device)
    distance = (ratios / USUAL_NOISE).log() / torch.tensor(SPREAD, dtype=gram.dtype).log()
    errors = (left_out - ratings).square().mean(1) + torch.finfo(gram.dtype).tiny
    trust = torch.softmax(-distance.square() / 2 - len(ratings) / 2 * (errors / errors.min()).clamp(1, 1e9).log(), 0)
    slopes, weights, left_out = (torch.einsum('a,a...->...', trust, each) for each in (slopes, weights, left_out))
    return Posterior(slopes[-1], slopes[0] if constant.shape[1] else slopes.new_zeros(()), design.T @ weights, left_out)


def _generalised(inverse: Tensor, columns: Tensor, ratings: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Generalised least squares of the columns, weights of the ratings, and the ratings as predicted without their groups."""
    precision, slopes = inverse, inverse.new_zeros(0)
    if columns.shape[1]:
        seen = inverse @ columns
        # a column that does not vary has no slope of its own
        solved = torch.linalg.pinv(columns.T @ seen, hermitian=True) @ seen.T
        precision, slopes = inverse - seen @ solved, solved @ ratings
    weights = precision @ ratings
    left_out = ratings.clone()
    for group in groups.unique():
        rows = groups == group
        # the block is singular where leaving the group out leaves a slope without ratings
        left_out[rows] -= torch.linalg.pinv(precision[rows][:, rows], hermitian=True) @ weights[rows]
    return slopes, weights, left_out
