"""The curves behind the report's plots, as few points as a plot needs. Knows arrays only."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.training.metrics import Labels, Probabilities

EDGES: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Between the bins of a reliability curve: closer where probabilities of rare events lie."""

POINTS: Final = 200
"""Of a curve over the ranking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Instants of like probability: what was said of them and what came, with the interval of resampled visitors."""

    predicted: float
    observed: float
    low: float
    high: float
    instants: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Down the ranking, highest probability first: `share` of all instants, of which `recall` of the purchases."""

    share: list[float]
    recall: list[float]
    precision: list[float]
    lift: list[float]


def reliability(p: Probabilities, y: Labels, user: NDArray[np.int64], *, draws: int, seed: int = 0) -> list[Bin]:
    """[n] probabilities and labels in bins between `EDGES`; empty ones are left out."""
    place = np.searchsorted(EDGES, p, side="right")
    _, owner = np.unique(user, return_inverse=True)
    n_users = int(owner.max()) + 1
    rng = np.random.default_rng(seed)

    def sums(weights: NDArray[np.float64], values: NDArray[np.floating] | Labels | float) -> NDArray[np.float64]:
        return np.asarray(np.bincount(place, weights=weights * values, minlength=len(EDGES) + 1), np.float64)

    ones = np.ones(len(p))
    rates = np.full((draws, len(EDGES) + 1), np.nan)
    for draw in rates:
        weights = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users).astype(np.float64)[owner]
        np.divide(sums(weights, y), counts := sums(weights, 1.0), out=draw, where=counts > 0)
    counts, predicted, observed = sums(ones, 1.0), sums(ones, p), sums(ones, y)
    return [
        Bin(
            predicted=float(predicted[at] / counts[at]),
            observed=float(observed[at] / counts[at]),
            low=float(np.nanpercentile(rates[:, at], 2.5)),
            high=float(np.nanpercentile(rates[:, at], 97.5)),
            instants=int(counts[at]),
        )
        for at in np.flatnonzero(counts)
    ]


def ranking(p: Probabilities, y: Labels) -> Ranking:
    """[n] probabilities and labels; points close together at the top, where decisions are made.

    Instants of one probability are shared out evenly, as in `metrics`: a point between them is what a random order
    of them would give on average.
    """
    order = np.argsort(-p, kind="stable")
    ranked = p[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    reached = np.concatenate([[0], last + 1]).astype(np.float64)
    caught = np.concatenate([[0.0], np.cumsum(y[order])[last]])
    depth = np.unique(np.geomspace(min(20, len(p)), len(p), POINTS))
    true = np.interp(depth, reached, caught)
    share, recall, precision = depth / len(p), true / max(caught[-1], 1), true / depth
    columns = (share, recall, precision, precision / max(y.mean(), 1e-12))
    return Ranking(
        **dict(
            zip(("share", "recall", "precision", "lift"), (np.round(one, 5).tolist() for one in columns), strict=True)
        )
    )
