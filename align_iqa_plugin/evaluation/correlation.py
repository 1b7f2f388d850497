"""How well scores agree with opinions, by pyiqa's functions and scipy: what every command that tests a metric reports."""

from collections.abc import Sequence

import numpy as np
from pyiqa.metrics.correlation_coefficient import calculate_krcc, calculate_plcc, calculate_rmse, calculate_srcc, fit_curve


def correlations(scores: Sequence[float], opinions: Sequence[float]) -> dict[str, float | None]:
    """Signed correlations of scores with opinion scores, and the error in the unit of the opinions.

    Returns:
        SRCC, PLCC, PLCC_fitted (after pyiqa's 4-parameter logistic fit; None where that does not converge), KRCC, RMSE, n.
    """
    scores, opinions = np.asarray(scores), np.asarray(opinions)
    try:
        fitted = float(calculate_plcc(fit_curve(scores, opinions), opinions))
    except RuntimeError:  # scipy's word for a fit without an optimum
        fitted = None
    return {
        'SRCC': float(calculate_srcc(scores, opinions)),
        'PLCC': float(calculate_plcc(scores, opinions)),
        'PLCC_fitted': fitted,
        'KRCC': float(calculate_krcc(scores, opinions)),
        'RMSE': float(calculate_rmse(scores, opinions)),
        'n': len(scores),
    }
