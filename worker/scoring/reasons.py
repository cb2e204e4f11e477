"""Why a score is what it is, in codes: yes-or-no facts of a window and the weight that each has for the model.

The weights are a surrogate's of the model's own 24 h logit, made when the bundle is trained (`fit`, and
`worker.explain.codes.weighed` for codes that stand for events) and stored in it with its R2, which says how much of the
model the codes can tell. They describe the model on average, not this one forward pass.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.scores import NO_REASON, REASONS
from worker.scoring.batch import KIND, Batch, Bools, Floats, Heads, Kinds, Rows
from worker.scoring.compiled import compiled

TOP: Final = 3
"""So many codes a score, the weightiest first."""

MANY_VIEWS: Final = 5
"""`many_item_views`: so many different items looked at in this session."""

FRESH_EVENTS: Final = 3
"""`fresh_session`: at most so many events into a session."""

LONG_IDLE_S: Final = 600
"""`long_idle`: the newest event came after so long a silence."""


class _Places(NamedTuple):
    """Where each code's fact stands."""

    purchase_in_window: int
    checkout_started: int
    payment_info_added: int
    cart_added: int
    cart_removed: int
    item_viewed_again: int
    many_item_views: int
    search_used: int
    returning_visitor: int
    fresh_session: int
    long_idle: int
    promotion_selected: int


_PLACES = _Places(**{code: place for place, code in enumerate(REASONS)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """The linear fit: logit is about intercept + facts @ weights."""

    weights: Floats  # [len(REASONS)]
    intercept: float
    r2: float


def facts(batch: Batch) -> Bools:
    """[B, len(REASONS)] which codes hold, in the order of `REASONS`. "Now" means in the newest event's session."""
    out = np.zeros((len(batch), len(REASONS)), np.bool_)
    _facts(batch.heads, batch.rows, KIND, _PLACES, out)
    return out


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
    codes, weights = np.full((len(batch), TOP), NO_REASON, np.uint8), np.zeros((len(batch), TOP), np.float32)
    _top(facts(batch), surrogate.weights, codes, weights)
    return codes, weights


@compiled
def _facts(heads: Heads, rows: Rows, kinds: Kinds, places: _Places, out: Bools) -> None:
    """`facts` into `out`, which is all False."""
    for i in range(len(heads.lengths)):
        held = out[i]
        oldest, newest = heads.first[i], heads.first[i] + heads.lengths[i] - 1
        now = views = different = 0
        for n in range(newest, oldest - 1, -1):
            kind = rows.kind[n]
            if kind == kinds.purchase:
                held[places.purchase_in_window] = True
            if rows.sessions_back[n] > 0:
                continue
            now += 1
            if kind == kinds.begin_checkout:
                held[places.checkout_started] = True
            elif kind in (kinds.add_payment_info, kinds.review_order):
                held[places.payment_info_added] = True
            elif kind == kinds.add_to_cart:
                held[places.cart_added] = True
            elif kind == kinds.remove_from_cart:
                held[places.cart_removed] = True
            elif kind == kinds.search:
                held[places.search_used] = True
            elif kind == kinds.select_promotion:
                held[places.promotion_selected] = True
            elif kind == kinds.view_item and rows.item[n] != 0:
                views += 1
                different += not _viewed(rows, n + 1, newest, kinds.view_item, rows.item[n])
        held[places.item_viewed_again] = views > different
        held[places.many_item_views] = different >= MANY_VIEWS
        held[places.returning_visitor] = heads.visit_number[i] > 1 or heads.sessions[i] > 1
        held[places.fresh_session] = now <= FRESH_EVENTS
        held[places.long_idle] = rows.gap_ms[newest] > LONG_IDLE_S * 1000


@compiled
def _viewed(rows: Rows, start: int, end: int, view_item: int, item: int) -> bool:
    """Whether one of the rows [start, end] is a view of the item."""
    found = False
    for n in range(start, end + 1):
        found |= rows.item[n] == item and rows.kind[n] == view_item
    return found


@compiled
def _top(held: Bools, weights: Floats, codes: NDArray[np.uint8], chosen: Floats) -> None:
    """For each row of `held` the weightiest that hold, into rows that are as if none did; of equals the first."""
    for i in range(len(held)):
        for code in range(held.shape[1]):
            if not held[i, code] or weights[code] == 0:
                continue
            place = TOP
            while place > 0 and abs(weights[code]) > abs(chosen[i, place - 1]):
                place -= 1
                if place < TOP - 1:
                    codes[i, place + 1], chosen[i, place + 1] = codes[i, place], chosen[i, place]
            if place < TOP:
                codes[i, place], chosen[i, place] = code, weights[code]
