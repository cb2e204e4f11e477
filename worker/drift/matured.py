"""Are the probabilities still right? Scores beside what their users have done since, where their horizon is over.

Knows arrays. A label is the same user's purchase in (t, t + H], as in training; scores whose horizon ends behind the
last event are not mature and do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.drift.psi import Verdict
from worker.scores import HORIZONS
from worker.scoring.batch import Floats
from worker.training.labels import HORIZONS_MS, Events, labels
from worker.training.metrics import measure

WATCH: Final = 1.25
ACT: Final = 1.5
"""So many times more, or fewer, purchases than the probabilities promise, beyond the interval. A choice of ours."""

LEAST_VISITORS: Final = 30
"""Fewer buyers than that tell nothing."""

DRAWS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One horizon. Intervals are 95 %, from resampling visitors."""

    horizon: str
    scores: int
    visitors: int
    promised: float  # mean probability
    happened: float  # share of labels that came true
    ratio: float
    low: float
    high: float
    ece: float
    auc: float
    verdict: Verdict


def calibrations(events: Events, probabilities: Floats, *, seed: int = 0) -> list[Calibration]:
    """One a horizon that has any mature score. `events` [n] in any order, with `probabilities` [n, horizons].

    Where `events.instant` is False, the event only brings labels.
    """
    if not len(events.time_ms):
        return []
    end, y = int(events.time_ms.max()), labels(events)
    found = []
    for at, name in enumerate(HORIZONS):
        mature = events.instant & (events.time_ms + HORIZONS_MS[at] <= end)
        if mature.any():
            found.append(_calibration(name, probabilities[mature, at], y[mature, at], events.visitor[mature], seed))
    return found


def _calibration(
    name: str, p: NDArray[np.floating], y: NDArray[np.bool_], visitor: NDArray[np.int64], seed: int
) -> Calibration:
    _, owner = np.unique(visitor, return_inverse=True)
    people = int(owner.max()) + 1
    promised, happened = (np.bincount(owner, weights=part, minlength=people) for part in (p, y))
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, people, people) for _ in range(DRAWS))  # one at a time: a topic may have many users
    ratios = [float(happened[rows].sum() / promised[rows].sum()) for rows in drawn]
    low, high = np.percentile(ratios, [2.5, 97.5]).tolist()
    ratio = float(y.sum() / p.sum())
    measured = measure(p, y)
    return Calibration(
        horizon=name,
        scores=len(p),
        visitors=people,
        promised=float(p.mean()),
        happened=float(y.mean()),
        ratio=ratio,
        low=low,
        high=high,
        ece=measured["ece"],
        auc=measured["auc"],
        verdict=_verdict(low, high, buyers=int((happened > 0).sum())),
    )


def _verdict(low: float, high: float, *, buyers: int) -> Verdict:
    """By the end of the interval that is nearer to 1."""
    if buyers < LEAST_VISITORS:
        return "too few"
    off = max(low, 1 / high if high > 0 else np.inf)
    if off > ACT:
        return "act"
    return "watch" if off > WATCH else "fine"


def of_rows(rows: Sequence[tuple[str, int, bool, bool]]) -> Events:
    """(user, time in UTC ms, whether it is scored, whether it is a purchase), in any order, as labels take them."""
    people: dict[str, int] = {}
    visitor = np.fromiter((people.setdefault(row[0], len(people)) for row in rows), np.int64, len(rows))
    return Events(
        visitor=visitor,
        session=visitor,
        time_ms=np.fromiter((row[1] for row in rows), np.int64, len(rows)),
        kind=np.zeros(len(rows), np.int64),
        instant=np.fromiter((row[2] for row in rows), np.bool_, len(rows)),
        purchase=np.fromiter((row[3] for row in rows), np.bool_, len(rows)),
    )
