"""Why a score is what it is, in codes: yes-or-no facts of a window and the weight that each has for the model.

The weights are a surrogate's: a linear fit of the model's own 24 h logit on these facts, made when the bundle is
trained and stored in it with its R2, which says how much of the model the codes can tell. They describe the model on
average, not this one forward pass.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.events import KINDS
from worker.scores import NO_REASON, REASONS
from worker.scoring.aggregates import distinct
from worker.scoring.batch import Batch, Bools, Floats

TOP: Final = 3
"""So many codes a score, the weightiest first."""

MANY_VIEWS: Final = 5
"""`many_item_views`: so many different items looked at in this session."""

FRESH_EVENTS: Final = 3
"""`fresh_session`: at most so many events into a session."""

LONG_IDLE_S: Final = 600
"""`long_idle`: the newest event came after so long a silence."""

_KIND = {name: number for number, name in enumerate(KINDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """The linear fit: logit is about intercept + facts @ weights."""

    weights: Floats  # [len(REASONS)]
    intercept: float
    r2: float


def facts(batch: Batch) -> Bools:
    """[B, len(REASONS)] which codes hold, in the order of `REASONS`. "Now" means in the newest event's session."""
    kind, now = batch.kind, batch.current

    def has(*names: str, where: Bools | None = None) -> Bools:
        hit = np.isin(kind, [_KIND[name] for name in names])
        return batch.any(hit if where is None else hit & where)

    viewed = np.where((kind == _KIND["view_item"]) & now, batch.row["item"], 0)
    views = batch.total((viewed != 0).astype(np.int64))
    different = distinct(batch, viewed)
    newest_gap_ms = batch.gap_ms[batch.newest]
    columns = {
        "purchase_in_window": has("purchase"),
        "checkout_started": has("begin_checkout", where=now),
        "payment_info_added": has("add_payment_info", "review_order", where=now),
        "cart_added": has("add_to_cart", where=now),
        "cart_removed": has("remove_from_cart", where=now),
        "item_viewed_again": views > different,
        "many_item_views": different >= MANY_VIEWS,
        "search_used": has("search", where=now),
        "returning_visitor": (batch.header["visit_number"] > 1) | (batch.sessions > 1),
        "fresh_session": batch.total(now.astype(np.int64)) <= FRESH_EVENTS,
        "long_idle": newest_gap_ms > LONG_IDLE_S * 1000,
        "promotion_selected": has("select_promotion", where=now),
    }
    return np.stack([columns[code] for code in REASONS], axis=1)


def fit(held: Bools, logits: NDArray[np.float64]) -> Surrogate:
    """Least squares of [B] logits on [B, len(REASONS)] facts. A code that never or always holds weighs nothing."""
    design = np.column_stack([np.ones(len(held)), held]).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design, logits, rcond=None)
    varies = held.any(axis=0) & ~held.all(axis=0)
    residual = logits - design @ solution
    spread = float(((logits - logits.mean()) ** 2).sum())
    return Surrogate(
        weights=np.where(varies, solution[1:], 0.0).astype(np.float32),
        intercept=float(solution[0]),
        r2=1.0 - float((residual**2).sum()) / spread if spread > 0 else 0.0,
    )


def top(batch: Batch, surrogate: Surrogate) -> tuple[NDArray[np.uint8], Floats]:
    """[B, TOP] codes (places in `REASONS`, `NO_REASON` where fewer hold) and their weights, weightiest first."""
    weights = facts(batch) * surrogate.weights
    order = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :TOP]
    chosen = np.take_along_axis(weights, order, axis=1)
    codes = np.where(chosen != 0, order, NO_REASON).astype(np.uint8)
    return codes, chosen.astype(np.float32)
