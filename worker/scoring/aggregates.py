"""A window summed up in numbers, for the head beside the transformer. Training and serving run this same code.

All features come from the window alone: counts by kind, how long ago, how fast, how many sessions, items and pages,
what the cart may hold, the hour. Durations and counts enter as logarithms. Knows numpy, no vocabulary and no torch.
"""

import math
from typing import Final

import numpy as np

from worker.events import KINDS
from worker.scoring.batch import KIND, Batch, Column, Floats, Heads, Kinds, Rows
from worker.scoring.compiled import compiled

_NEVER_S = 40 * 86_400.0  # beyond what a window spans
_DAY_MS = 86_400_000
_MOST_EVENTS = 512  # of a window: what the largest networks have positions for; 64 today
_SLOTS = 1024  # of a hash table for so many values

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


_COUNTS: Final = np.log1p(np.arange(_MOST_EVENTS + 1)).astype(np.float32)
"""The logarithms of all that a window may count."""


def aggregates(batch: Batch) -> Floats:
    """[B, len(NAMES)], not standardised: a bundle keeps the means and deviations of its training."""
    out = np.zeros((len(batch), len(NAMES)), np.float32)
    _aggregates(batch.heads, batch.rows, KIND, len(KINDS), _COUNTS, out)
    return out


@compiled
def _aggregates(heads: Heads, rows: Rows, kinds: Kinds, k: int, log_counts: Floats, out: Floats) -> None:
    """Window by window; the order of columns is that of `NAMES`: five times the k kinds, then `SCALARS`."""
    counts, session_counts = np.empty(k, np.int64), np.empty(k, np.int64)
    slots = np.zeros(_SLOTS, np.int64)
    never = math.log1p(_NEVER_S)
    for i in range(len(heads.lengths)):
        to = out[i]
        oldest, newest = heads.first[i], heads.first[i] + heads.lengths[i] - 1
        opening = newest  # the first row of the session
        while opening > oldest and rows.sessions_back[opening - 1] == 0:
            opening -= 1
        counts[:] = session_counts[:] = 0
        to[2 * k : 3 * k] = never
        for n in range(newest, oldest - 1, -1):
            kind = min(rows.kind[n], k - 1)
            if counts[kind] == 0:
                to[2 * k + kind] = _log_seconds(rows.age_ms[n])
            counts[kind] += 1
            if n >= opening:
                session_counts[kind] += 1
        for kind in range(k):
            to[kind], to[k + kind] = log_counts[counts[kind]], log_counts[session_counts[kind]]
        to[3 * k + min(rows.kind[newest], k - 1)] = 1
        if newest > oldest:
            to[4 * k + min(rows.kind[newest - 1], k - 1)] = 1
        scalars = to[5 * k :]
        _pace(heads, rows, i, opening, log_counts, never, scalars)
        for at, hashes in enumerate((rows.item, rows.page)):  # `items` to `newest_page_seen`
            found = _breadth(hashes, oldest, newest, opening, slots, 2 * i + at + 1)
            scalars[9 + 2 * at], scalars[10 + 2 * at] = log_counts[found[0]], log_counts[found[1]]
            scalars[13 + at] = log_counts[found[2]]
        _cart(rows, oldest, newest, kinds, log_counts, scalars[15:])
        _clock(heads.newest_ms[i], scalars[24:])


@compiled
def _pace(heads: Heads, rows: Rows, i: int, opening: int, log_counts: Floats, never: float, to: Floats) -> None:
    """`events` to `visit_number`, and the counts of gaps within the session."""
    newest = heads.first[i] + heads.lengths[i] - 1
    total = longest = below_1s = over_60s = 0
    for n in range(opening + 1, newest + 1):
        gap = rows.gap_ms[n]
        total += max(gap, 0)
        longest = max(longest, gap)
        below_1s += gap < 1_000
        over_60s += gap > 60_000
    to[0] = log_counts[heads.lengths[i]]
    to[1] = log_counts[newest - opening + 1]
    to[2] = _log_seconds(total)
    to[3] = _log_seconds(rows.gap_ms[newest])
    to[4] = _log_seconds(total / max(newest - opening, 1))
    to[5] = _log_seconds(longest)
    to[6] = _log_seconds(rows.gap_ms[opening]) if heads.sessions[i] > 1 else never
    to[7] = log_counts[heads.sessions[i]]
    visits = heads.visit_number[i]
    to[8] = log_counts[visits] if visits < len(log_counts) else math.log1p(visits)
    to[22], to[23] = log_counts[below_1s], log_counts[over_60s]


@compiled
def _breadth(hashes: Column, oldest: int, newest: int, opening: int, slots: Column, mark: int) -> tuple[int, int, int]:
    """How many different ones the window and the session have, and how often the newest one is in the window.

    `slots` is an open hash table that nobody has to empty: an entry counts only under its own `mark`.
    """
    different = in_session = again = 0
    for n in range(newest, oldest - 1, -1):
        value = np.int64(hashes[n])
        if value != 0:
            again += value == hashes[newest]
            entry, slot = mark << 32 | value, value & (_SLOTS - 1)
            while slots[slot] != entry and slots[slot] >> 32 == mark:  # another one's
                slot = (slot + 1) & (_SLOTS - 1)
            different += slots[slot] != entry
            slots[slot] = entry
        if n == opening:
            in_session = different
    return different, in_session, again


@compiled
def _cart(rows: Rows, oldest: int, newest: int, kinds: Kinds, log_counts: Floats, to: Floats) -> None:
    """`newest_price` to `events_since_purchase`."""
    highest = price = np.int64(0)
    added = removed = checkout = since = 0
    bought = False
    for n in range(newest, oldest - 1, -1):
        cents, kind = np.int64(rows.price_cents[n]), rows.kind[n]
        highest = max(highest, cents)
        bought |= kind == kinds.purchase
        if not bought:
            since += 1
            removed += kind == kinds.remove_from_cart
            checkout += kinds.begin_checkout <= kind <= kinds.review_order
            if kind == kinds.add_to_cart:
                added += 1
                price += cents
    to[0], to[1], to[2] = _log_price(rows.price_cents[newest]), _log_price(highest), _log_price(price)
    to[3], to[4], to[5], to[6] = log_counts[added], log_counts[removed], log_counts[checkout], log_counts[since]


@compiled
def _clock(time_ms: int, to: Floats) -> None:
    """`hour_sine` to `weekend`."""
    angle = (time_ms % _DAY_MS) * (2 * math.pi / _DAY_MS)
    to[0], to[1] = math.sin(angle), math.cos(angle)
    to[2] = (time_ms // _DAY_MS + 3) % 7 >= 5  # Saturday and Sunday; 1970-01-01 was a Thursday


@compiled
def _log_seconds(milliseconds: float) -> float:
    """Not `log1p`, which takes twice as long: from a millisecond on they are the same in float32."""
    return math.log(1 + milliseconds / 1000) if milliseconds > 0 else 0.0


@compiled
def _log_price(cents: np.int64) -> float:
    return math.log(1 + cents / 100) if cents > 0 else 0.0
