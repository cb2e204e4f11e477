"""Platt's calibration: a slope and an intercept that make logits of a slice it was not trained on probabilities.

Knows arrays only.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from worker.scoring.calibration import Calibration
from worker.training.metrics import enough

_LOOSE: Final = 1e4
"""The penalty's inverse: it moves nothing that was fitted to a thousand instants, and bounds what is separable."""


def platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, intercept) of least log loss for one horizon's [n] logits, both outcomes among the labels.

    (1, 0) where the slope is not positive and would turn the ranks.
    """
    fitted = LogisticRegression(C=_LOOSE, solver="newton-cholesky", tol=1e-8).fit(logits[:, None], labels)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return (slope, intercept) if slope > 0 else (1.0, 0.0)


def fit(
    logits: NDArray[np.floating],
    labels: NDArray[np.bool_],
    member: NDArray[np.bool_],
    *,
    former: Calibration | None = None,
    least: int = 1,
) -> Calibration:
    """[n, horizons] logits and labels; each horizon on its own members, which the network has not learnt from.

    One with fewer than `least` members of either outcome keeps the `former` calibration, or else has none: (1, 0).
    """
    pairs = []
    for at, rows in enumerate(member.T):
        if enough(labels[rows, at], least=least):
            pairs.append(platt(logits[rows, at].astype(np.float64), labels[rows, at]))
        else:
            pairs.append((1.0, 0.0) if former is None else (former.slopes[at], former.intercepts[at]))
    return Calibration(
        slopes=np.array([slope for slope, _ in pairs], np.float32),
        intercepts=np.array([intercept for _, intercept in pairs], np.float32),
    )
