"""Intervals of 90 % around scores, and ties between scores."""

import numpy as np

Z = 1.6449
"""Standard deviations on either side of a score that make its 90 % interval."""


def is_tie(score, std, other_score, other_std):
    """Whether two scores differ by less than the standard deviation of the error of their difference; of numbers or arrays.

    The errors of the two count as independent, as they were found to be within a prompt (docs/results.md). Where a deviation
    is not known (NaN), there is no tie.
    """
    return np.abs(score - other_score) < np.hypot(std, other_std)
