"""The bundle beside its rivals on one slice of the sample: by horizon and population, with paired differences.

Owns what is measured; a `Comparison` is one horizon and population. Scores come from the code that serves, calibration
included. Knows neither how anything was trained nor how it is shown.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.evaluation.slices import Populations
from worker.scoring.batch import Floats
from worker.training.labels import NAMES, Bools
from worker.training.metrics import Estimate, estimates, resampled, resamples_tell

BUNDLE: Final = "bundle"
"""The scorer that all others are compared with."""
RULE: Final = "rule"
TREES: Final = "LightGBM"
EVENTS_ONLY: Final = "BERT, events only"
BLEND: Final = "bundle + LightGBM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One horizon and population of a slice."""

    horizon: str
    by: str  # what the slice was cut by
    population: str
    instants: int
    visitors: int
    base_rate: float
    scorers: dict[str, dict[str, Estimate]]  # metrics of each
    differences: dict[str, dict[str, Estimate]]  # the bundle's metrics minus each rival's, paired


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """n instants of a slice, and what each scorer gives them."""

    member: Bools  # [n, horizons]
    y: Bools  # [n, horizons]
    visitor: NDArray[np.int64]  # [n]
    populations: Populations
    scorers: Mapping[str, Floats]  # [n, horizons] probabilities; `BUNDLE` among them


def compare(
    scored: Scored, *, draws: int, seed: int = 0, report: Callable[[str], None] = lambda _: None
) -> list[Comparison]:
    """Every horizon and population of which a resample tells something. Intervals: 95 %, from resampling visitors.

    `report` hears of each one before it is measured; 100,000 instants, 4 scorers and 200 draws take some 3 s of CPU.
    """
    found = []
    for at, horizon in enumerate(NAMES):
        for by, parts in scored.populations.items():
            for population, chosen in parts.items():
                rows = scored.member[:, at] & chosen
                truth, visitor = scored.y[rows, at], scored.visitor[rows]
                if not resamples_tell(truth, visitor):
                    continue
                report(f"{horizon}, {population}")
                given = {name: p[rows, at] for name, p in scored.scorers.items()}
                samples = resampled(given, truth, visitor, draws=draws, seed=seed)
                found.append(
                    Comparison(
                        horizon=horizon,
                        by=by,
                        population=population,
                        instants=int(rows.sum()),
                        visitors=len(np.unique(visitor)),
                        base_rate=float(truth.mean()),
                        scorers={name: estimates(sample) for name, sample in samples.items()},
                        differences={
                            name: estimates(samples[BUNDLE] - sample)
                            for name, sample in samples.items()
                            if name != BUNDLE
                        },
                    )
                )
    return found
