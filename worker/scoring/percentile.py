"""Where a score stands among those of a reference: who cuts by rank, not by chance, need not know the base rate.

The reference is the calibrated scores of the validation slice, as quantiles. Knows arrays only.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from worker.scoring.batch import Bools, Floats

STEPS: Final = 1000
"""Of a reference made here: a percentile is told to 0.001."""

MOST_STEPS: Final = 100_000
"""Of a reference that is accepted."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Quantiles of a reference's scores at 0, 1/steps, ..., 1, a row a horizon. `ValueError` for what is none."""

    quantiles: Floats  # [horizons, steps + 1], ascending

    def __post_init__(self) -> None:
        found = self.quantiles
        if found.ndim != 2 or not 2 <= found.shape[1] <= MOST_STEPS + 1:
            raise ValueError(f"2 to {MOST_STEPS + 1} quantiles for each horizon are wanted")
        if not ((found >= 0) & (found <= 1)).all() or (np.diff(found, axis=1) < 0).any():
            raise ValueError("quantiles must ascend from 0 or more to 1 or less")

    @classmethod
    def fit(cls, scores: Floats, member: Bools, *, steps: int = STEPS) -> Self:
        """[n, horizons] calibrated probabilities, and which of them count for each horizon: at least one."""
        grid = np.linspace(0, 1, steps + 1)
        return cls(
            np.stack([np.quantile(scores[rows, at], grid) for at, rows in enumerate(member.T)]).astype(np.float32)
        )

    def of(self, scores: Floats) -> NDArray[np.float64]:
        """[n, horizons] -> the share of the reference that each score reaches, 0 to 1: never less for a higher score.

        A binary search a score: about a hundredth of what writing the record takes.
        """
        shares = _shares(self.quantiles.shape[1] - 1)
        found = np.empty(scores.shape)
        for at, quantiles in enumerate(self.quantiles):
            found[:, at] = shares[np.maximum(np.searchsorted(quantiles, scores[:, at], side="right") - 1, 0)]
        return found


@cache
def _shares(steps: int) -> NDArray[np.float64]:
    """0, 1/steps, ..., 1, as short decimals: what is written needs no rounding."""
    return np.round(np.arange(steps + 1) / steps, 6)
