"""Whether the reason codes of the stream say what the model does: each code's weight beside the logit that it is worth.

A code that stands for events is tried by leaving all of its events out at once. Codes about the visit as a whole
(`returning_visitor`, `fresh_session`, `long_idle`) stand for no events and are not tried.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from rich.table import Table

from worker.events import KINDS
from worker.explain.faithfulness import estimate, interval
from worker.explain.parts import Doubles, only
from worker.explain.scorer import Scorer
from worker.scores import REASONS
from worker.scoring import reasons
from worker.scoring.batch import Batch

STANDS_FOR: Final = {
    "purchase_in_window": ("purchase",),
    "checkout_started": ("begin_checkout",),
    "payment_info_added": ("add_payment_info", "review_order"),
    "cart_added": ("add_to_cart",),
    "cart_removed": ("remove_from_cart",),
    "item_viewed_again": ("view_item",),
    "many_item_views": ("view_item",),
    "search_used": ("search",),
    "promotion_selected": ("select_promotion",),
}
"""Codes and the kinds of their events: the session's, but for purchases, which count wherever they are."""


def worth(scorer: Scorer, windows: Sequence[bytes], *, horizon: int) -> dict[str, tuple[float, Doubles]]:
    """By code: its weight, and what the logit loses without its events, of each window that has them and others too."""
    batch = Batch.of(windows)
    held = reasons.facts(batch)
    lacking: list[bytes] = []
    whose: list[tuple[str, int]] = []
    for code, kinds in STANDS_FOR.items():
        numbers = [KINDS.index(kind) for kind in kinds]
        for i in np.flatnonzero(held[:, REASONS.index(code)]).tolist():
            rows = slice(batch.first[i], batch.first[i] + batch.lengths[i])
            gone = np.isin(batch.rows.kind[rows], numbers)
            if code != "purchase_in_window":
                gone &= batch.rows.sessions_back[rows] == 0
            if not gone.all():
                lacking.append(only(windows[i], np.flatnonzero(~gone).tolist()))
                whose.append((code, i))
    if not lacking:
        return {}
    full = scorer.logits(windows)[:, horizon]
    falls = full[[i for _, i in whose]] - scorer.logits(lacking)[:, horizon]
    weights = scorer.bundle.surrogate.weights
    return {
        code: (
            float(weights[REASONS.index(code)]),
            np.array([fall for (name, _), fall in zip(whose, falls.tolist(), strict=True) if name == code]),
        )
        for code in dict.fromkeys(name for name, _ in whose)
    }


def agreement(found: dict[str, tuple[float, Doubles]]) -> Doubles:
    """For each trial of a code that weighs anything, 1 where the logit moved as its weight says, else 0."""
    return np.concatenate(
        [np.zeros(0), *(np.sign(falls) == np.sign(weight) for weight, falls in found.values() if weight)]
    ).astype(np.float64)


def document(found: dict[str, tuple[float, Doubles]]) -> dict[str, Any]:
    """For programs; plain JSON values."""
    return {
        code: {"weight": round(weight, 4), "windows": len(falls), "worth": round(float(falls.mean()), 4)}
        for code, (weight, falls) in found.items()
    }


def table(found: dict[str, tuple[float, Doubles]]) -> Table:
    """For people."""
    shown = Table(title="Reason codes of the stream: weight and worth, in logits", title_justify="left")
    shown.add_column("code")
    for name in ("windows", "weight", "its events are worth"):
        shown.add_column(name, justify="right")
    for code, (weight, falls) in sorted(found.items(), key=lambda one: -abs(one[1][0])):
        shown.add_row(code, f"{len(falls)}", f"{weight:+.2f}", interval(estimate(falls)))
    trials = agreement(found)
    if len(trials):
        shown.caption = f"the logit moves as the weight says in {100 * trials.mean():.0f} % of {len(trials)} trials"
        shown.caption_justify = "left"
    return shown
