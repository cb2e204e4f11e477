"""What the reason codes of the stream are worth to the model: the logit that is lost without the events of a code.

A code that stands for events is tried by leaving all of its events out at once. Codes about the visit as a whole
(`returning_visitor`, `fresh_session`, `long_idle`) stand for no events and are not tried. Owns the weights by worth,
which training puts into the bundle, and the study of any bundle's weights.
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
from worker.scoring.bundle import Bundle
from worker.scoring.reasons import Surrogate

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


LEAST: Final = 30
"""Windows that a worth is averaged over, at least; a rarer code keeps the weight of the fit."""


def weighed(bundle: Bundle, windows: Sequence[bytes], *, horizon: int) -> Surrogate:
    """The bundle's surrogate with each code's mean worth for its weight; the other codes are fitted to what is left.

    A linear fit alone tells what goes along with a high score, not what makes it: of two facts that come together it
    may give one the share of both, and the other a wrong sign. On the first shipped model the logit moves as the weight
    says in 91 % of trials by worth, in 74 % by the fit (600 validation windows).
    """
    scorer = Scorer(bundle)
    found = worth(scorer, windows, horizon=horizon)
    fixed = np.zeros(len(REASONS))
    known = np.zeros(len(REASONS), np.bool_)
    for code, (_, falls) in found.items():
        if len(falls) >= LEAST:
            fixed[REASONS.index(code)], known[REASONS.index(code)] = falls.mean(), True
    held, logits = reasons.facts(Batch.of(windows)), scorer.logits(windows)[:, horizon]
    rest = reasons.fit(held & ~known, logits - held @ fixed)
    weights = np.where(known, fixed, rest.weights)
    spread = float(((logits - logits.mean()) ** 2).sum())
    left = float(((logits - held @ weights - rest.intercept) ** 2).sum())
    return Surrogate(
        weights=weights.astype(np.float32), intercept=rest.intercept, r2=1 - left / spread if spread > 0 else 0.0
    )


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
        shown.add_row(code, f"{len(falls)}", f"{weight:+z.2f}", interval(estimate(falls)))
    trials = agreement(found)
    if len(trials):
        shown.caption = f"the logit moves as the weight says in {100 * trials.mean():.0f} % of {len(trials)} trials"
        shown.caption_justify = "left"
    return shown
