"""Platt's calibration: a slope and an intercept that make logits of a slice it was not trained on probabilities.

Knows arrays only. Newton's method on two parameters; no more than a handful of steps.
"""

import numpy as np
from numpy.typing import NDArray

from worker.scoring.bundle import Calibration


def platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, intercept) of least log loss for one horizon's [n] logits. The slope stays positive: ranks hold."""
    slope, intercept = 1.0, 0.0
    target = labels.astype(np.float64)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(slope * logits + intercept, -30, 30)))
        weight = np.maximum(p * (1 - p), 1e-9)
        gradient = np.array([((p - target) * logits).sum(), (p - target).sum()])
        cross = (weight * logits).sum()
        hessian = np.array([[(weight * logits**2).sum(), cross], [cross, weight.sum()]])
        step = np.linalg.solve(hessian + np.eye(2) * 1e-6, gradient)
        slope, intercept = slope - step[0], intercept - step[1]
        if np.abs(step).max() < 1e-8:
            break
    return (slope, intercept) if slope > 0 and np.isfinite(slope + intercept) else (1.0, 0.0)


def fit(logits: NDArray[np.floating], labels: NDArray[np.bool_], member: NDArray[np.bool_]) -> Calibration:
    """[n, horizons] logits and labels; each horizon on its own members of the validation slice."""
    pairs = [
        platt(logits[rows, at].astype(np.float64), labels[rows, at]) for at, rows in enumerate(member.T) if rows.any()
    ]
    return Calibration(
        slopes=np.array([slope for slope, _ in pairs], np.float32),
        intercepts=np.array([intercept for _, intercept in pairs], np.float32),
    )
