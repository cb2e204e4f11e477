"""How good probabilities are: ROC-AUC, average precision, log loss, calibration error, with bootstraps by user.

All metrics take weights, so that a bootstrap draws users, not events: one sort serves every draw. Knows arrays only.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]
Labels = NDArray[np.bool_]
Weights = NDArray[np.float64]

BINS: Final = 15
METRICS: Final = ("auc", "ap", "log_loss", "ece")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float


def measure(p: Probabilities, y: Labels, weights: Weights | None = None) -> dict[str, float]:
    """`METRICS` of [n] probabilities for [n] labels. NaN where a class is absent."""
    return _Ranked(p, y).measure(np.ones(len(p)) if weights is None else weights)


def bootstrap(p: Probabilities, y: Labels, user: NDArray[np.int64], *, draws: int, seed: int) -> dict[str, Estimate]:
    """`METRICS` with intervals from resampling users: their events come and go together."""
    ranked = _Ranked(p, y)
    value = ranked.measure(np.ones(len(p)))
    _, owner = np.unique(user, return_inverse=True)
    n_users = int(owner.max()) + 1
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users).astype(np.float64)
        samples.append(ranked.measure(times[owner]))
    bounds = {name: np.nanpercentile([sample[name] for sample in samples], [2.5, 97.5]) for name in METRICS}
    return {name: Estimate(value[name], float(bounds[name][0]), float(bounds[name][1])) for name in METRICS}


class _Ranked:
    """Probabilities sorted once, measured under any weights."""

    def __init__(self, p: Probabilities, y: Labels) -> None:
        self.order = np.argsort(-p, kind="stable")
        self.p = p[self.order].astype(np.float64)
        self.y = y[self.order]
        self.last = np.flatnonzero(np.append(self.p[1:] != self.p[:-1], True))  # of each run of equal probabilities
        safe = np.clip(self.p, 1e-7, 1 - 1e-7)
        self.loss = -np.where(self.y, np.log(safe), np.log1p(-safe))
        self.bin = np.minimum((self.p * BINS).astype(np.int64), BINS - 1)

    def measure(self, weights: Weights) -> dict[str, float]:
        w = weights[self.order]
        true = np.cumsum(w * self.y)[self.last]
        false = np.cumsum(w * ~self.y)[self.last]
        positives, negatives = true[-1], false[-1]
        if positives <= 0 or negatives <= 0:
            return dict.fromkeys(METRICS, float("nan"))
        steps_true, steps_false = np.diff(true, prepend=0.0), np.diff(false, prepend=0.0)
        auc = float((steps_false * (true - steps_true / 2)).sum() / (positives * negatives))
        precision = true / np.maximum(true + false, 1e-12)
        sums = [np.bincount(self.bin, weights=w * values, minlength=BINS) for values in (self.p, self.y)]
        return {
            "auc": auc,
            "ap": float((steps_true * precision).sum() / positives),
            "log_loss": float((w * self.loss).sum() / w.sum()),
            "ece": float(np.abs(sums[0] - sums[1]).sum() / w.sum()),
        }
