"""Ties between scores."""

import numpy as np

from align_iqa_plugin.runtime.interval import is_tie


def test_scores_are_tied_where_they_differ_by_less_than_the_error_of_their_difference():
    assert is_tie(2.0, 0.3, 2.49, 0.4) and is_tie(2.49, 0.4, 2.0, 0.3) and not is_tie(2.0, 0.3, 2.51, 0.4)


def test_without_a_deviation_there_is_no_tie():
    assert is_tie(np.array([1.0, 1.0]), np.array([0.1, np.nan]), 1.0, 0.1).tolist() == [True, False]
