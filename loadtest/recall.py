"""What counts as found: which signs are looked at, the threshold that ordinary visitors set, recall with intervals.

Knows rarities and whose they are; neither windows nor where abuse comes from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from worker.scores import RISK_REASONS

FALSE_ALARMS: Final = (0.001, 0.01)
"""Of the ordinary visitors, by the greatest score that each had in the week."""

CHOSEN_ON: Final = ("scripted browsing", "cart hoarding", "card testing")
"""Kinds that the way to join signs was chosen on, with windows of the training weeks. The others are held out."""

SURPRISE: Final = "unusual_sequence"

MADE_FOR: Final = {
    "scripted browsing": {"machine_pace", "no_dwell", "regular_pace"},
    "cart hoarding": set[str](),
    "card testing": {"repetition", "repeated_sequence"},
    "account sharing": {"overlapping_sessions"},
    "replayed session": {"repeated_sequence"},
}
"""Signs that were thought of with a kind in mind. Without them the kind is one that nobody foresaw."""

RULE: Final = "the rule"
UNFORESEEN: Final = "unforeseen: "
DETECTORS: Final = {
    "all signs": set(RISK_REASONS),
    "without the surprise": set(RISK_REASONS) - {SURPRISE},
    "the surprise alone": {SURPRISE},
    f"{UNFORESEEN}all signs": set(RISK_REASONS),
    f"{UNFORESEEN}without the surprise": set(RISK_REASONS) - {SURPRISE},
    RULE: set[str](),
}
"""Which signs' rarities are looked at; the rarest counts. Unforeseen: less those made for the kind at hand."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """What some windows show, and whose they are."""

    rare: Doubles  # [n, signs] decades
    rule: Doubles  # [n]
    owner: NDArray[np.int64]  # [n] 0, 1, ...

    @property
    def owners(self) -> int:
        """How many visitors."""
        return int(self.owner.max(initial=-1)) + 1

    def greatest(self, detector: str, kind: str | None = None) -> Doubles:
        """[owners] the most that each visitor's windows show to one of `DETECTORS` that looks for a kind."""
        codes = DETECTORS[detector]
        if kind is not None and detector.startswith(UNFORESEEN):
            codes = codes - MADE_FOR[kind]
        columns = [at for at, code in enumerate(RISK_REASONS) if code in codes]
        scores = self.rare[:, columns].max(axis=1) if columns else self.rule
        most = np.full(self.owners, -np.inf)
        np.maximum.at(most, self.owner, scores)
        return most


def recalls(ordinary: Measured, found: dict[str, Measured], bots: Measured) -> dict[str, Any]:
    """By detector and share of false alarms: recall of each kind with its 95 % interval; of the bot-like, how many."""
    result: dict[str, Any] = {"recall": {}, "bot_like_of": bots.owners, "bot_like_found": {}}
    for detector in DETECTORS:
        for share in FALSE_ALARMS:
            name = f"{detector} at {100 * share:g} %"
            result["recall"][name] = {
                kind: wilson(caught(ordinary, each, detector, share, kind), each.owners) for kind, each in found.items()
            }
            result["bot_like_found"][name] = caught(ordinary, bots, detector, share, None)
    return result


def caught(ordinary: Measured, others: Measured, detector: str, share: float, kind: str | None) -> int:
    """How many of the others show more than all but a share of the ordinary visitors."""
    calm = np.sort(ordinary.greatest(detector, kind))
    return int((others.greatest(detector, kind) > calm[-int(share * len(calm)) - 1]).sum())


def wilson(hits: int, of: int) -> list[float]:
    """A share with its 95 % interval (Wilson 1927)."""
    z = 1.959964
    p, weight = hits / of, z * z / of
    middle = (p + weight / 2) / (1 + weight)
    half = z / (1 + weight) * float(np.sqrt(p * (1 - p) / of + weight / (4 * of)))
    return [round(p, 4), round(max(middle - half, 0.0), 4), round(min(middle + half, 1.0), 4)]


def table(document: dict[str, Any]) -> Table:
    """For people."""
    shown = Table(title="Recall of synthetic abuse, by visitor", title_justify="left", caption_justify="left")
    shown.add_column("looked at, false alarms", no_wrap=True)
    kinds = list(next(iter(document["recall"].values())))
    for kind in kinds:
        shown.add_column(kind if kind in document["chosen_on"] else f"{kind}, held out", justify="right")
    shown.add_column(f"{document['bot_like_of']} bot-like", justify="right")
    for at, (name, recall) in enumerate(document["recall"].items()):
        cells = (f"{value:.2f}\n{low:.2f}–{high:.2f}" for value, low, high in recall.values())
        last = at % len(FALSE_ALARMS) == len(FALSE_ALARMS) - 1
        shown.add_row(name, *cells, str(document["bot_like_found"][name]), end_section=last)
    shown.caption = (
        f"false alarms among {document['background_visitors']:,} real visitors of the validation week; 95 % intervals"
    )
    return shown


def plot(ordinary: Measured, found: dict[str, Measured], path: Path) -> None:
    """Recall over false alarms, a panel a kind, a line a detector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(found), 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (kind, each) in zip(panels, found.items(), strict=True):
        for detector in DETECTORS:
            calm, rare = np.sort(ordinary.greatest(detector, kind)), each.greatest(detector, kind)
            thresholds = np.unique(np.concatenate((calm, rare)))[::-1]
            alarms = 1 - np.searchsorted(calm, thresholds, side="left") / len(calm)
            caught = 1 - np.searchsorted(np.sort(rare), thresholds, side="left") / len(rare)
            axes.plot(np.maximum(100 * alarms, 0.01), caught, label=detector)
        axes.set(xscale="log", xlim=(0.01, 100), title=kind, xlabel="% false alarms")
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("recall (synthetic)")
    panels[-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)
