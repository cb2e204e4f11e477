"""How good a bundle is on a slice of the sample: by horizon and population, beside the base rate, with intervals.

Scores come from the code that serves, calibration included. Knows labels and metrics, not how the model was trained.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from rich.table import Table

from worker import terminal
from worker.scoring.bundle import Bundle
from worker.training import finetune
from worker.training.labels import NAMES, Events, decision_points, labels, member
from worker.training.metrics import LEAST_USERS, Estimate, bootstrap, resamples_tell
from worker.training.windows import Windows

DAY: Final = 1
"""Place of the 24 h horizon, which is measured at every decision point; the others at every instant."""

UNMEASURED: Final = (
    f"Not scored in this run, or on fewer than {LEAST_USERS} visitors of either outcome, who tell nothing."
)
"""What is said where there is no line."""

HEADINGS: Final = {"auc": "ROC-AUC", "ap": "AP", "log_loss": "log loss", "ece": "ECE"}
"""Of the metrics that a table of the bundle alone shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One horizon and population of a slice."""

    horizon: str
    population: str
    instants: int
    visitors: int
    base_rate: float
    metrics: dict[str, Estimate]


def evaluate(
    bundle: Bundle, events: Events, windows: Windows, *, which: str, draws: int, seed: int = 0, device: str = "cpu"
) -> list[Line]:
    """Every line of a slice (`labels.SLICES`) of which a resample tells something. Minutes.

    Intervals: 95 %, from `draws` resamples of the visitors.
    """
    inside, y = member(events, which), labels(events)
    places = np.flatnonzero(inside.any(axis=1))
    logits = finetune.predict(bundle.weights, bundle.vocabulary, windows, places, device=device)
    p = bundle.calibration.probabilities(logits)
    lines = []
    for at, horizon in enumerate(NAMES):
        for population, chosen in decision_points(events).items():
            rows = inside[places, at] & chosen[places]
            if at != DAY and population != "every instant":
                continue
            truth, visitor = y[places[rows], at], events.visitor[places[rows]]
            if not resamples_tell(truth, visitor):
                continue
            lines.append(
                Line(
                    horizon=horizon,
                    population=population,
                    instants=int(rows.sum()),
                    visitors=len(np.unique(visitor)),
                    base_rate=float(truth.mean()),
                    metrics=bootstrap(p[rows, at], truth, visitor, draws=draws, seed=seed),
                )
            )
    return lines


def table(lines: Sequence[Line], *, title: str) -> Table:
    """For a terminal."""
    shown = terminal.table(title)
    shown.add_column("horizon", no_wrap=True)
    shown.add_column("at")
    for name in ("instants", "base\nrate", *HEADINGS.values()):
        shown.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        shown.add_row(
            line.horizon,
            line.population,
            f"{line.instants:,}",
            f"{line.base_rate:.3f}",
            *(interval(line.metrics[name]).replace(" ", "\n") for name in HEADINGS),
        )
    return shown


def markdown(lines: Sequence[Line]) -> str:
    """The same for a model card."""
    heads = ["horizon", "population", "instants", "base rate", *HEADINGS.values()]
    rows = [heads, ["---", "---", *["--:"] * (len(heads) - 2)]]
    rows += [
        [
            line.horizon,
            line.population,
            f"{line.instants:,}",
            f"{line.base_rate:.3f}",
            *(interval(line.metrics[name]) for name in HEADINGS),
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def document(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [asdict(line) for line in lines]


def interval(estimate: Estimate) -> str:
    """``.907 (.899–.914)``; what is 1 or more keeps all of its digits."""
    value, low, high = (
        re.sub(r"^(-?)0\.", r"\1.", f"{number:.3f}") for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low}–{high})"
