"""What one could have without the product: a rule, and gradient-boosted trees on the same information.

Each learns from the instants that the bundle learnt from, and is calibrated on those that calibrated it: a later week
alone is worth more than most models differ by. Trees are tuned where the bundle was, before any refit.
Knows features and labels, not the network.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.scoring.aggregates import NAMES
from worker.scoring.batch import Floats
from worker.training import calibrate
from worker.training.features import Features
from worker.training.labels import Bools
from worker.training.metrics import measure
from worker.training.trees import Booster, grow
from worker.whole import written

Ints = NDArray[np.int64]

STEPS: Final = (("view_item",), ("add_to_cart",), ("begin_checkout", "add_payment_info"), ("review_order",))
"""What takes a visitor a step further; the furthest one in the window counts."""

ROUNDS: Final = (100, 150, 200, 250, 300, 350, 400)
"""Numbers of trees that validation chooses among, for each horizon, by AUC + AP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Instants of a slice with what may be learnt from them."""

    features: Features
    member: Bools  # [n, horizons]
    y: Bools  # [n, horizons]
    session: Ints  # [n]


Tuning = Callable[[], tuple[Known, Known]]
"""Called for each horizon whose trees are not kept."""


def rule(train: Known, features: Features) -> Floats:
    """[n, horizons]: the rate of purchases in the training slice among instants that had come as far, a step each."""
    then, now = steps(train.features), steps(features)
    rates = np.empty((len(STEPS) + 1, train.y.shape[1]), np.float32)
    for at in range(rates.shape[1]):
        rows = train.member[:, at]
        bought = np.bincount(then[rows], weights=train.y[rows, at], minlength=len(rates))
        rates[:, at] = bought / np.maximum(np.bincount(then[rows], minlength=len(rates)), 1)
    return np.maximum.accumulate(rates, axis=0)[now]  # a further step never counts for less


def steps(features: Features) -> Ints:
    """[n] the furthest of `STEPS` in the window, from 1; 0 for none."""
    found = np.zeros(len(features), np.int64)
    for step, kinds in enumerate(STEPS, start=1):
        counts = features.aggregates[:, [NAMES.index(f"{kind}_count") for kind in kinds]]
        found[(counts > 0).any(axis=1)] = step
    return found


def trees(train: Known, validation: Known, features: Features, folder: Path, *, tuning: Tuning | None = None) -> Floats:
    """[n, horizons] calibrated probabilities of LightGBM, grown on `train`, calibrated on `validation`.

    Their number is chosen there too, or, for a refit, on the `tuning` pair of instants to grow on and to judge by.
    Boosters that a former call left in `folder`, whole, are used again; else they are grown (about half a minute a
    horizon) and left there. The folder must be one of these data and these settings.
    """
    boosters = [
        _kept(folder / f"trees-{at}.txt") or _grown(train, validation, at, folder / f"trees-{at}.txt", tuning)
        for at in range(train.y.shape[1])
    ]
    calibration = calibrate.fit(_logits(boosters, validation.features), validation.y, validation.member)
    return calibration.probabilities(_logits(boosters, features))


def _kept(path: Path) -> Booster | None:
    """None where there are none, or not as they were left: LightGBM ends the process for half a tree."""
    if not path.exists():
        return None
    content, _, seal = path.read_bytes().rpartition(b"\n")
    return Booster(model_str=content.decode()) if seal == _seal(content) else None


def _seal(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _grown(train: Known, validation: Known, at: int, path: Path, tuning: Tuning | None) -> Booster:
    """One horizon's trees, as many as validation, or the second of `tuning`, likes best; kept in `path`."""
    grown, rounds = _tuned(*((train, validation) if tuning is None else tuning()), at)
    if tuning is not None:
        grown = _grow(train, at, rounds)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = grown.model_to_string(num_iteration=rounds)
    with written(path) as beside:
        beside.write_bytes(b"\n".join([content.encode(), _seal(content.encode())]))
    return Booster(model_str=content)


def _grow(train: Known, at: int, rounds: int) -> Booster:
    rows = train.member[:, at]
    return grow(train.features.table()[rows], train.y[rows, at], train.session[rows], rounds=rounds)


def _tuned(train: Known, validation: Known, at: int) -> tuple[Booster, int]:
    """As many trees as there may be, and how many of them are best."""
    grown, judged = _grow(train, at, max(ROUNDS)), validation.member[:, at]
    seen, truth = validation.features.table()[judged], validation.y[judged, at]

    def worth(rounds: int) -> float:
        found = measure(np.asarray(grown.predict(seen, num_iteration=rounds)), truth)
        return found["auc"] + found["ap"]

    return grown, max(ROUNDS, key=worth)


def _logits(boosters: Sequence[Booster], features: Features) -> Floats:
    table = features.table()
    columns = [np.asarray(booster.predict(table, raw_score=True), np.float32) for booster in boosters]
    return np.stack(columns, axis=1)
