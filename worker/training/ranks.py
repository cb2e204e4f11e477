"""How far two quantities go together, whatever their scales: Spearman's rank correlation. Knows arrays only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Of two times [n] numbers; 0 where one of them says nothing about the order."""
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / spread if spread > 0 else 0.0


def _ranks(found: NDArray[Any]) -> NDArray[np.float64]:
    """Places in order; equals share the mean of theirs."""
    _, which, counts = np.unique(found, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[which], np.float64)
