"""How good probabilities are: ranking, calibration and lift, with bootstraps by user and paired differences.

All metrics take weights, so that a bootstrap draws users, not events: one sort serves every draw. Knows arrays only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]
Labels = NDArray[np.bool_]
Weights = NDArray[np.float64]
Draws = NDArray[np.float64]
"""[1 + draws, len(METRICS)] of one scorer; row 0 is measured on the sample itself."""

BINS: Final = 15
LIFTS: Final = {"lift_1": 0.01, "lift_5": 0.05, "lift_10": 0.10}
"""The shares with the highest probabilities, whose rate is compared with that of all."""
METRICS: Final = ("auc", "ap", "log_loss", "brier", "ece", *LIFTS)

LEAST_USERS: Final = 10
"""With each outcome, for an interval: of fewer, a resample of the users says little."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric, or a difference of two, with its 95 % interval."""

    value: float
    low: float
    high: float

    def signed(self, *, digits: int = 3) -> str:
        """As a difference: ``+0.021 (+0.004 to +0.037)``."""
        value, low, high = (f"{number:+.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def measure(p: Probabilities, y: Labels, weights: Weights | None = None) -> dict[str, float]:
    """`METRICS` of [n] probabilities for [n] labels. NaN where a class is absent."""
    return dict(zip(METRICS, _Ranked(p, y).measure(np.ones(len(p)) if weights is None else weights), strict=True))


def enough(y: Labels, *, least: int) -> bool:
    """Whether there are so many of both outcomes."""
    return bool(y.sum() >= least and (~y).sum() >= least)


def resamples_tell(y: Labels, user: NDArray[np.int64]) -> bool:
    """Whether `LEAST_USERS` have each outcome; the instants of one user alone may be hundreds."""
    return min(len(np.unique(user[y == came])) for came in (True, False)) >= LEAST_USERS


def bootstrap(p: Probabilities, y: Labels, user: NDArray[np.int64], *, draws: int, seed: int) -> dict[str, Estimate]:
    """`METRICS` with intervals from resampling users: their events come and go together."""
    return estimates(resampled({"": p}, y, user, draws=draws, seed=seed)[""])


def resampled(
    scorers: Mapping[str, Probabilities], y: Labels, user: NDArray[np.int64], *, draws: int, seed: int
) -> dict[str, Draws]:
    """Several scorers of the same n events under the same resamples of the users.

    Row by row they belong together: the difference of two scorers' draws is a paired one, free of what the resample
    does to both (Efron and Tibshirani 1993, section 16).
    """
    ranked = {name: _Ranked(p, y) for name, p in scorers.items()}
    _, owner = np.unique(user, return_inverse=True)
    n_users = int(owner.max()) + 1
    rng = np.random.default_rng(seed)
    rows: dict[str, list[list[float]]] = {name: [one.measure(np.ones(len(y)))] for name, one in ranked.items()}
    for _ in range(draws):
        times = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users).astype(np.float64)
        weights = times[owner]
        for name, one in ranked.items():
            rows[name].append(one.measure(weights))
    return {name: np.array(measured) for name, measured in rows.items()}


def estimates(draws: Draws) -> dict[str, Estimate]:
    """`METRICS` with percentile intervals; of the difference of two scorers' draws, the paired difference."""
    low, high = np.nanpercentile(draws[1:], [2.5, 97.5], axis=0)
    return {
        name: Estimate(*found)
        for name, *found in zip(METRICS, draws[0].tolist(), low.tolist(), high.tolist(), strict=True)
    }


class _Ranked:
    """Probabilities sorted once, measured under any weights."""

    def __init__(self, p: Probabilities, y: Labels) -> None:
        self.order = np.argsort(-p, kind="stable")
        self.p = p[self.order].astype(np.float64)
        self.y = y[self.order]
        self.last = np.flatnonzero(np.append(self.p[1:] != self.p[:-1], True))  # of each run of equal probabilities
        safe = np.clip(self.p, 1e-7, 1 - 1e-7)
        self.loss = -np.where(self.y, np.log(safe), np.log1p(-safe))
        self.squares = (self.p - self.y) ** 2
        self.bin = np.minimum((self.p * BINS).astype(np.int64), BINS - 1)
        self.excess = self.p - self.y  # of the prediction over the outcome

    def measure(self, weights: Weights) -> list[float]:
        """In the order of `METRICS`."""
        w = weights[self.order]
        true = np.cumsum(w * self.y)[self.last]
        all_ = np.cumsum(w)[self.last]
        positives, total = float(true[-1]), float(all_[-1])
        if not 0 < positives < total:
            return [float("nan")] * len(METRICS)
        steps_true, steps = np.diff(true, prepend=0.0), np.diff(all_, prepend=0.0)
        auc = ((steps - steps_true) * (true - steps_true / 2)).sum() / (positives * (total - positives))
        return [
            float(auc),
            float((steps_true * true / np.maximum(all_, 1e-12)).sum() / positives),
            float(w @ self.loss) / total,
            float(w @ self.squares) / total,
            float(np.abs(np.bincount(self.bin, weights=w * self.excess, minlength=BINS)).sum()) / total,
            *(_reached(true, all_, share * total) / (share * positives) for share in LIFTS.values()),
        ]


def _reached(true: Weights, all_: Weights, depth: float) -> float:
    """Positives among the first `depth` of the ranking; of a run of equal probabilities that it cuts, its share."""
    at = int(np.searchsorted(all_, depth))
    true_before, before = (float(true[at - 1]), float(all_[at - 1])) if at else (0.0, 0.0)
    inside = (depth - before) / (float(all_[at]) - before)
    return true_before + inside * (float(true[at]) - true_before)
