"""A window summed up in numbers, for the head beside the transformer. Training and serving run this same code.

All features come from the window alone: counts by kind, how long ago, how fast, how many sessions, items and pages,
what the cart may hold, the hour. Durations and counts enter as logarithms. Knows numpy, no vocabulary and no torch.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.events import KINDS
from worker.scoring.batch import Batch, Bools, Floats, Ints

_K = len(KINDS)
_KIND = {name: number for number, name in enumerate(KINDS)}
_NEVER_S = 40 * 86_400.0  # beyond what a window spans
_DAY_MS = 86_400_000

SCALARS: Final = (
    "events",
    "session_events",
    "session_seconds",
    "gap_seconds",
    "session_mean_gap_seconds",
    "session_longest_gap_seconds",
    "pause_before_session_seconds",
    "sessions",
    "visit_number",
    "items",
    "session_items",
    "pages",
    "session_pages",
    "newest_item_seen",
    "newest_page_seen",
    "newest_price",
    "highest_price",
    "cart_price",
    "cart_added_since_purchase",
    "cart_removed_since_purchase",
    "checkout_since_purchase",
    "events_since_purchase",
    "gaps_below_1s",
    "gaps_over_60s",
    "hour_sine",
    "hour_cosine",
    "weekend",
)

NAMES: Final = (
    *(f"{kind}_count" for kind in KINDS),
    *(f"{kind}_session_count" for kind in KINDS),
    *(f"{kind}_seconds_ago" for kind in KINDS),
    *(f"{kind}_newest" for kind in KINDS),
    *(f"{kind}_before" for kind in KINDS),
    *SCALARS,
)
"""The columns of `aggregates`."""


def aggregates(batch: Batch) -> Floats:
    """[B, len(NAMES)], not standardised: a bundle keeps the means and deviations of its training."""
    kind = np.minimum(batch.kind, _K - 1)
    counts = _by_kind(batch, kind)
    session_counts = _by_kind(batch, kind, only=batch.current)
    columns = [
        np.log1p(counts),
        np.log1p(session_counts),
        _seconds_ago(batch, kind),
        np.eye(_K)[kind[batch.newest]],
        _kind_before(batch, kind),
        np.stack([*_pace(batch), *_breadth(batch), *_cart(batch, kind), *_clock(batch)], axis=1),
    ]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _by_kind(batch: Batch, kind: Ints, only: Bools | None = None) -> NDArray[np.int64]:
    cell = batch.owner * _K + kind
    return np.bincount(cell if only is None else cell[only], minlength=len(batch) * _K).reshape(-1, _K)


def _seconds_ago(batch: Batch, kind: Ints) -> NDArray[np.float64]:
    """[B, K] log of the seconds since the last event of each kind."""
    ago = np.full((len(batch), _K), _NEVER_S)
    ago[batch.owner, kind] = batch.age_ms / 1000  # rows are oldest first and the last value assigned stays
    return np.asarray(np.log1p(ago))


def _kind_before(batch: Batch, kind: Ints) -> NDArray[np.float64]:
    """[B, K] one-hot of the second newest event's kind; zeros in a window of one."""
    several = batch.lengths > 1
    before = np.eye(_K)[kind[np.maximum(batch.newest - 1, 0)]]
    before[~several] = 0.0
    return before


def _pace(batch: Batch) -> list[NDArray[np.float64]]:
    """`events` to `visit_number`."""
    current, gap_s = batch.current, np.maximum(batch.gap_ms, 0) / 1000
    inside = current & ~batch.opens  # gaps within the session
    session_events = batch.total(current.astype(np.int64))
    inside_s = np.where(inside, gap_s, 0.0)
    session_s = batch.total(inside_s)
    opening_s = batch.total(np.where(current & batch.opens, gap_s, 0.0))
    return [
        np.log1p(batch.lengths),
        np.log1p(session_events),
        np.log1p(session_s),
        np.log1p(gap_s[batch.newest]),
        np.log1p(session_s / np.maximum(session_events - 1, 1)),
        np.log1p(np.maximum.reduceat(inside_s, batch.first)),
        np.log1p(np.where(batch.sessions > 1, opening_s, _NEVER_S)),
        np.log1p(batch.sessions),
        np.log1p(batch.header["visit_number"]),
    ]


def _breadth(batch: Batch) -> list[NDArray[np.float64]]:
    """`items` to `newest_page_seen`."""
    columns = []
    seen = []
    for name in ("item", "page"):
        hashes = batch.row[name]
        columns += [distinct(batch, hashes), distinct(batch, np.where(batch.current, hashes, 0))]
        newest = hashes[batch.newest][batch.owner]
        seen.append(batch.total(((hashes == newest) & (hashes != 0)).astype(np.int64)))
    return [np.log1p(column) for column in (*columns, *seen)]


def distinct(batch: Batch, hashes: NDArray[np.uint32]) -> Ints:
    """[N] -> [B] how many different values other than 0 each window has."""
    pairs = np.sort((batch.owner.astype(np.uint64) << np.uint64(32)) | hashes)
    new = np.empty(len(pairs), np.bool_)
    new[:1] = True
    new[1:] = pairs[1:] != pairs[:-1]
    new &= (pairs & np.uint64(0xFFFFFFFF)) != 0
    return np.bincount((pairs[new] >> np.uint64(32)).astype(np.int64), minlength=len(batch))


def _cart(batch: Batch, kind: Ints) -> list[NDArray[np.float64]]:
    """`newest_price` to `events_since_purchase`."""
    price = batch.price_cents / 100
    place = np.arange(len(kind))
    bought = np.where(kind == _KIND["purchase"], place, -1)
    since = place > np.maximum.reduceat(bought, batch.first)[batch.owner]
    added = since & (kind == _KIND["add_to_cart"])
    checkout = (kind >= _KIND["begin_checkout"]) & (kind <= _KIND["review_order"])
    return [
        np.log1p(price[batch.newest]),
        np.log1p(np.maximum.reduceat(price, batch.first)),
        np.log1p(batch.total(np.where(added, price, 0.0))),
        np.log1p(batch.total(added.astype(np.int64))),
        np.log1p(batch.total((since & (kind == _KIND["remove_from_cart"])).astype(np.int64))),
        np.log1p(batch.total((since & checkout).astype(np.int64))),
        np.log1p(batch.total(since.astype(np.int64))),
    ]


def _clock(batch: Batch) -> list[NDArray[np.float64]]:
    """`gaps_below_1s` to `weekend`."""
    inside = batch.current & ~batch.opens
    fast = inside & (batch.gap_ms < 1_000)
    slow = inside & (batch.gap_ms > 60_000)
    time_ms = batch.header["newest_ms"]
    angle = (time_ms % _DAY_MS) * (2 * np.pi / _DAY_MS)
    weekday = (time_ms // _DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
    return [
        np.log1p(batch.total(fast.astype(np.int64))),
        np.log1p(batch.total(slow.astype(np.int64))),
        np.sin(angle),
        np.cos(angle),
        (weekday >= 5).astype(np.float64),  # Saturday and Sunday
    ]
