"""Are the probabilities still right? Scores beside what their users have done since, where their horizon is over.

Knows arrays. A label is the same user's purchase in (t, t + H], as in training; scores whose horizon ends behind the
last event are not mature and do not count.
"""

from array import array
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


class Rows:
    """Events as labels take them, in any order. 18 bytes an event, and each user's id once."""

    def __init__(self) -> None:
        self._people: dict[str, int] = {}
        self._visitor = array("q")
        self._time_ms = array("q")
        self._instant = array("b")
        self._purchase = array("b")

    def __len__(self) -> int:
        return len(self._time_ms)

    def add(self, user: str, time_ms: int, *, instant: bool, purchase: bool) -> None:
        """One event, at UTC ms; `instant` where it is scored."""
        self._visitor.append(self._people.setdefault(user, len(self._people)))
        self._time_ms.append(time_ms)
        self._instant.append(instant)
        self._purchase.append(purchase)

    def events(self) -> Events:
        """All that were added."""
        visitor = np.array(self._visitor, np.int64)
        return Events(
            visitor=visitor,
            session=visitor,
            time_ms=np.array(self._time_ms, np.int64),
            kind=np.zeros(len(self), np.int64),
            instant=np.array(self._instant, np.bool_),
            purchase=np.array(self._purchase, np.bool_),
        )


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


def calibrations(
    events: Events, probabilities: Floats, *, seen_ms: int | None = None, seed: int = 0
) -> list[Calibration]:
    """One a horizon that has any mature score. `events` [n] in any order, with `probabilities` [n, horizons].

    Where `events.instant` is False, the event only brings labels. `seen_ms`: when the last of them arrived, where that
    is known: an event may be a day ahead of its time, and what has not happened by then would count as not happening.
    """
    if not len(events.time_ms):
        return []
    end, y = int(events.time_ms.max()), labels(events)
    end = end if seen_ms is None else min(end, seen_ms)
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
    off = max(low, 1 / high)
    if off > ACT:
        return "act"
    return "watch" if off > WATCH else "fine"
