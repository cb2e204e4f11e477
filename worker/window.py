"""A user's rolling window: the fold of one event into it, its digest and its binary codec. Pure.

Knows neither Kafka nor Faust, no clock and no model. A window is a `bytes` value, and stays one from the table through
the changelog to the scoring engine: the usual event (nobody out of order) is folded by slicing, never decoded.

Layout, little endian where not said otherwise:

====== ===================================================================================================
HEADER version (1), number of ids, number of rows, flags (bit 0: permuted), newest event time in ms (i64)
        ``facts.CONTEXT``: what is known of the newest event's session
ROWS   one per kept event in window order, oldest first: low 32 bits of its time in ms, item, category, page,
        kind | price in cents << 8, session
IDS    event ids, 8 bytes big endian each, in the order they were folded: the last 128, before them any older
        one whose event is still kept
ORDER  only when permuted: for each row the index of its id; else the rows' ids are the last ones, in order
====== ===================================================================================================

A row's age is ``(newest - time) mod 2**32``: kept events span 30 days, 2**32 ms are 49.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from struct import Struct
from typing import Final, NamedTuple, Self

import msgspec
from xxhash import xxh3_64_hexdigest

from worker.errors import Fatal
from worker.facts import CONTEXT, NO_CONTEXT, Facts

EVENTS: Final = 64
"""A window keeps at most so many events."""
RECENT: Final = 128
"""An id is a duplicate when it is among those of the user's last so many folded events."""
SPAN_MS: Final = 30 * 24 * 3600 * 1000
"""No kept event is older than the newest by more."""

VERSION: Final = 1
HEADER: Final = Struct("<BBBBq")
ROW: Final = Struct("<5IH")
ROWS_AT: Final = HEADER.size + CONTEXT.size
MAX_BYTES: Final = ROWS_AT + EVENTS * (ROW.size + 1) + (RECENT + EVENTS - 1) * 8

_PERMUTED: Final = 1
_LOW32: Final = 0xFFFFFFFF
_ROW_BYTES: Final = ROW.size
_pack_header, _unpack_header, _pack_row = HEADER.pack, HEADER.unpack_from, ROW.pack
_EXTENT: Final = Struct(f"<2xBxq{CONTEXT.size}xI")
"""Of a window's beginning: number of rows, newest event time, low 32 bits of the first row's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The two limits a deployment may choose."""

    max_lateness_ms: int = 10 * 60 * 1000
    expire_after_ms: int = 35 * 24 * 3600 * 1000

    @classmethod
    def of_seconds(cls, *, max_lateness_s: float, expire_after_s: float) -> Self:
        """To the nearest ms: live and replay must not round apart."""
        return cls(max_lateness_ms=round(max_lateness_s * 1000), expire_after_ms=round(expire_after_s * 1000))


class Outcome(Enum):
    """What became of the event."""

    FOLDED = "folded"
    DUPLICATE = "duplicate"
    LATE = "late"


class Folded(msgspec.Struct, frozen=True, gc=False):
    """The window after the event: the same object as before unless `outcome` is FOLDED."""

    outcome: Outcome
    window: bytes


class Row(NamedTuple):
    """One kept event, decoded."""

    id: int
    time_ms: int
    item: int
    category: int
    page: int
    kind: int
    price_cents: int
    session: int


@dataclass(frozen=True, slots=True)
class View:
    """A window decoded, for people and tests; the hot path never builds one."""

    newest_ms: int
    context: tuple[int, ...]
    rows: tuple[Row, ...]
    recent: tuple[int, ...]
    """Ids of the last folded events, at most `RECENT`, in the order of folding."""


def newest_ms(window: bytes) -> int:
    """Event time of the newest kept event, UTC ms."""
    newest: int = HEADER.unpack_from(window)[4]
    return newest


def length(window: bytes) -> int:
    """How many events are kept, 1 to 64."""
    return window[2]


def extent(window: bytes) -> tuple[int, int, int]:
    """How many events are kept (1 to 64), and the event times of the oldest and the newest, UTC ms."""
    kept, newest, oldest = _EXTENT.unpack_from(window)
    return kept, newest - ((newest - oldest) & _LOW32), newest


def expired(window: bytes, *, clock_ms: int, rules: Rules) -> bool:
    """Whether the user starts afresh: silent for longer than `expire_after`. `clock_ms` is as in `fold`.

    Raises `Fatal` as `fold` does: what is no window, or one of another version, would look expired, and be deleted.
    """
    return clock_ms - _header(window)[3] > rules.expire_after_ms


def fold(window: bytes | None, event: Facts, *, rules: Rules, clock_ms: int | None = None) -> Folded:
    """One event into the user's window (`None`: the first). Constant work, at most `MAX_BYTES` out.

    `clock_ms` is the event time of the partition's newest event, by default of this one: by it, whoever was silent for
    longer than `expire_after` starts afresh. The caller has skipped offsets at or below the watermark.
    Raises `Fatal` for bytes that this module did not write.
    """
    time_ms, session = event.time_ms, event.session
    id8 = event.id.to_bytes(8, "big")
    row = _pack_row(
        time_ms & _LOW32, event.item, event.category, event.page, event.kind | event.price_cents << 8, session
    )
    if window is None:
        return Folded(Outcome.FOLDED, _pack_header(VERSION, 1, 1, 0, time_ms) + event.context + row + id8)
    n_ids, n_rows, flags, newest = _header(window)
    if (time_ms if clock_ms is None else clock_ms) - newest > rules.expire_after_ms:
        return fold(None, event, rules=rules)
    ids_at = ROWS_AT + n_rows * _ROW_BYTES
    ids_end = ids_at + n_ids * 8
    recent_at = ids_end - RECENT * 8 if n_ids > RECENT else ids_at
    at = window.find(id8, recent_at, ids_end)
    while at >= 0:
        if (at - recent_at) % 8 == 0:
            return Folded(Outcome.DUPLICATE, window)
        at = window.find(id8, at + 1, ids_end)  # across the border of two ids
    if time_ms < newest - rules.max_lateness_ms:
        return Folded(Outcome.LATE, window)
    # The context of the newest event's session: its first that is not empty.
    context = window[HEADER.size : ROWS_AT]
    if session == window[ids_at - 2] | window[ids_at - 1] << 8:
        if context == NO_CONTEXT:
            context = event.context
    elif time_ms >= newest:
        context = event.context
    if flags or time_ms < newest:
        return Folded(Outcome.FOLDED, _insert(window, event, row=row, context=context))
    first = ROWS_AT + _ROW_BYTES if n_rows == EVENTS else ROWS_AT
    allowed = SPAN_MS - (time_ms - newest)  # against the former newest event, where low 32 bits still tell an age
    while first < ids_at and (newest - int.from_bytes(window[first : first + 4], "little")) & _LOW32 > allowed:
        first += _ROW_BYTES
    if n_ids >= RECENT:
        n_ids, recent_at = RECENT - 1, ids_end - (RECENT - 1) * 8
    header = _pack_header(VERSION, n_ids + 1, (ids_at - first) // _ROW_BYTES + 1, 0, time_ms)
    return Folded(
        Outcome.FOLDED, b"".join((header, context, window[first:ids_at], row, window[recent_at:ids_end], id8))
    )


def digest(window: bytes) -> str:
    """XXH3-64 in 16 hex digits over the kept events' ids, in window order, 8 bytes big endian each."""
    n_rows, flags = window[2], window[3]
    if not flags:
        return xxh3_64_hexdigest(window[-8 * n_rows :])
    ids_at = ROWS_AT + n_rows * ROW.size
    return xxh3_64_hexdigest(b"".join(window[ids_at + 8 * i : ids_at + 8 * i + 8] for i in window[-n_rows:]))


def view(window: bytes) -> View:
    """Decodes and checks everything; `Fatal` for bytes that `fold` cannot have written."""
    n_ids, n_rows, flags, newest = _header(window)
    ids_at = ROWS_AT + n_rows * ROW.size
    ids = [int.from_bytes(window[at : at + 8], "big") for at in range(ids_at, ids_at + 8 * n_ids, 8)]
    order = list(window[-n_rows:]) if flags else list(range(n_ids - n_rows, n_ids))
    if len(set(order)) != n_rows or max(order) >= n_ids:
        raise Fatal("a stored window's order does not name its ids; its state folder or changelog is damaged")
    rows = []
    for index, fields in zip(order, ROW.iter_unpack(window[ROWS_AT:ids_at]), strict=True):
        time, item, category, page, kind_price, session = fields
        age = (newest - time) & _LOW32
        rows.append(Row(ids[index], newest - age, item, category, page, kind_price & 0xFF, kind_price >> 8, session))
    times = [row.time_ms for row in rows]
    if times[-1] != newest or times[0] < newest - SPAN_MS or any(a > b for a, b in pairwise(times)):
        raise Fatal("a stored window's events are not in time order; its state folder or changelog is damaged")
    return View(newest, CONTEXT.unpack_from(window, HEADER.size), tuple(rows), tuple(ids[-RECENT:]))


def _header(window: bytes) -> tuple[int, int, int, int]:
    """(ids, rows, flags, newest ms) of a window whose header fits its size."""
    if len(window) >= ROWS_AT:
        version, n_ids, n_rows, flags, newest = _unpack_header(window)
        size = ROWS_AT + n_rows * _ROW_BYTES + n_ids * 8 + (n_rows if flags else 0)
        if size == len(window) and version == VERSION and flags <= _PERMUTED and 1 <= n_rows <= min(EVENTS, n_ids):
            return n_ids, n_rows, flags, newest
    raise Fatal(
        f"a stored window of {len(window)} bytes is not one of layout version {VERSION}; "
        "its state folder or changelog is damaged or was written by another version"
    )


def _insert(window: bytes, event: Facts, *, row: bytes, context: bytes) -> bytes:
    """The general fold: any order. Decodes the rows' places, inserts by (time, arrival), evicts, encodes."""
    n_ids, n_rows, flags, newest = _header(window)
    ids_at = ROWS_AT + n_rows * ROW.size
    ids = [window[at : at + 8] for at in range(ids_at, ids_at + 8 * n_ids, 8)] + [event.id.to_bytes(8, "big")]
    order = list(window[-n_rows:]) if flags else list(range(n_ids - n_rows, n_ids))
    kept: list[tuple[int, bytes, int]] = []
    for index, at in zip(order, range(ROWS_AT, ids_at, ROW.size), strict=True):
        stored = window[at : at + ROW.size]
        kept.append((newest - ((newest - int.from_bytes(stored[:4], "little")) & _LOW32), stored, index))
    place = n_rows
    while place and kept[place - 1][0] > event.time_ms:
        place -= 1
    kept.insert(place, (event.time_ms, row, n_ids))
    newest = max(newest, event.time_ms)
    kept = [entry for entry in kept[-EVENTS:] if newest - entry[0] <= SPAN_MS]
    strays = sorted(index for _, _, index in kept if index < len(ids) - RECENT)
    shift = max(0, len(ids) - RECENT) - len(strays)
    place_of = {index: place for place, index in enumerate(strays)}
    order = [place_of.get(index, index - shift) for _, _, index in kept]
    all_ids = [ids[index] for index in strays] + ids[-RECENT:]
    straight = order == list(range(len(all_ids) - len(order), len(all_ids)))
    header = HEADER.pack(VERSION, len(all_ids), len(kept), 0 if straight else _PERMUTED, newest)
    rows = b"".join(stored for _, stored, _ in kept)
    return b"".join((header, context, rows, *all_ids, b"" if straight else bytes(order)))
