"""Two bundles on the same instants: by how much the later one is better, for the card, the terminal and the registry.

Scores come from the code that serves, calibration included. Knows labels and windows, not how anything was trained.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from worker import terminal
from worker.errors import IntentError
from worker.scores import rfc3339
from worker.scoring.bundle import Bundle
from worker.shop.source import Source
from worker.training import continual, windows
from worker.training.examples import predict
from worker.training.labels import NAMES, Bools, Events, labels
from worker.training.metrics import (
    LEAST_USERS,
    Estimate,
    Labels,
    Probabilities,
    estimates,
    measure,
    resampled,
    resamples_tell,
)

UNCOMPARED: Final = f"Not compared: fewer than {LEAST_USERS} of these visitors had either outcome, for every horizon."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A horizon's numbers before and after, and their paired differences, on the same instants."""

    horizon: str
    instants: int
    visitors: int
    base_rate: float
    before: dict[str, float]
    after: dict[str, float]
    differences: dict[str, Estimate]


def compare(
    before: Bundle,
    after: Bundle,
    events: Events,
    kept: windows.Windows,
    member: Bools,
    *,
    draws: int,
    device: str = "cpu",
) -> list[Pair]:
    """Both bundles, as they serve, on the instants of `member` [n, horizons]. A horizon with too few visitors of either
    outcome is left out: one buyer's instants would make an interval, and hold a promotion up.
    """
    places = np.flatnonzero(member.any(axis=1))
    if not len(places):
        return []
    y, inside, visitor = labels(events)[places], member[places], events.visitor[places]
    old, new = (
        each.calibration.probabilities(predict(each.weights, each.vocabulary, kept, places, device=device))
        for each in (before, after)
    )
    pairs = []
    for at, horizon in enumerate(NAMES):
        rows = inside[:, at]
        first, second, truth = old[rows, at], new[rows, at], y[rows, at]
        if not resamples_tell(truth, visitor[rows]):
            continue
        pairs.append(
            Pair(
                horizon=horizon,
                instants=int(rows.sum()),
                visitors=len(np.unique(visitor[rows])),
                base_rate=float(truth.mean()),
                before=measure(first, truth),
                after=measure(second, truth),
                differences=differences(first, second, truth, visitor[rows], draws=draws),
            )
        )
    return pairs


def differences(
    before: Probabilities, after: Probabilities, y: Labels, user: NDArray[np.int64], *, draws: int
) -> dict[str, Estimate]:
    """Metrics of `after` minus those of `before`, on the same [n] instants, under the same resamples of the users."""
    drawn = resampled({"before": before, "after": after}, y, user, draws=draws, seed=0)
    return estimates(drawn["after"] - drawn["before"])


def compared(
    before: Bundle,
    after: Bundle,
    source: Source,
    *,
    since_ms: int,
    until_ms: int,
    runs: Path,
    draws: int,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """As `document`, of any two bundles, measured now on every label that became known in (since, until].

    `say` hears what of the source became no event. Raises `IntentError` where there are too few. It is for the caller
    to choose dates that neither has learnt from.
    """
    events, kept = windows.build(source, runs / "cache", say=say)
    member = continual.known(events, from_ms=since_ms, until_ms=until_ms)
    pairs = compare(before, after, events, kept, member, draws=draws)
    span = f"{day(since_ms)} to {day(until_ms)}"
    if not pairs:
        raise IntentError(f"too few labels of {source.name} became known {span} to compare two bundles on")
    return document(before, pairs, slice_=f"all visitors, labels known {span}")


def table(pairs: list[Pair], *, before: str, after: str) -> Table:
    """For a terminal."""
    shown = terminal.table(f"{after} against {before}, on visitors that taught it nothing")
    shown.add_column("horizon", no_wrap=True)
    for name in ("instants", "base\nrate", "AP\nwas", "AP\nis", "difference", "AUC\nwas", "AUC\nis", "difference"):
        shown.add_column(name, justify="right", no_wrap=True)
    for pair in pairs:
        cells = [
            cell
            for name in ("ap", "auc")
            for cell in (
                f"{pair.before[name]:.3f}".removeprefix("0"),
                f"{pair.after[name]:.3f}".removeprefix("0"),
                pair.differences[name].signed().replace(" ", "\n", 1),
            )
        ]
        shown.add_row(pair.horizon, f"{pair.instants:,}", f"{pair.base_rate:.3f}", *cells)
    return shown


def markdown(pairs: list[Pair]) -> str:
    """For a model card."""
    if not pairs:
        return UNCOMPARED
    rows = [
        "| horizon | instants | AP before | AP | difference | AUC before | AUC | difference |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for pair in pairs:
        cells = [
            f"{pair.before[name]:.3f} | {pair.after[name]:.3f} | {pair.differences[name].signed()}"
            for name in ("ap", "auc")
        ]
        rows.append(f"| {pair.horizon} | {pair.instants:,} | {' | '.join(cells)} |")
    return "\n".join(rows)


def document(before: Bundle, pairs: list[Pair], *, slice_: str) -> dict[str, Any]:
    """What a successor carries as its `metrics.json`; `registry.compare` reads it."""
    return {
        "slice": slice_,
        "against": before.version,
        "lines": [{"population": "every instant", **asdict(pair)} for pair in pairs],
    }


def former(bundle: Bundle) -> str | None:
    """The version that the bundle's numbers are compared with, where they are a `document`."""
    version: str | None = (bundle.metrics or {}).get("against")
    return version


def day(time_ms: int) -> str:
    """``2016-09-17``."""
    return rfc3339(time_ms)[:10]
