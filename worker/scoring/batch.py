"""Many encoded windows as columns: the one place where scoring knows the window's byte layout.

Owns the decoding (a join and one loop in machine code) and what every reader of a window needs: a row's age, the gap
before it, its session. Knows no vocabulary, no model and no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker import window
from worker.errors import Fatal
from worker.events import KINDS
from worker.facts import CONTEXT
from worker.scoring.compiled import compiled

SESSION_PAUSE_MS: Final = 30 * 60_000
"""Where a shop sends no session ids, so long a pause opens a session."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Hashes = NDArray[np.uint32]
Column = NDArray[Any]  # of one type each; numpy's own types for single values would only stand in a loop's way

_CONTEXTS = 7
_NEWEST_AT, _CONTEXT_AT, _VISIT_AT = 4, 12, 12 + 4 * _CONTEXTS
assert (window.HEADER.format, CONTEXT.format, window.ROW.format) == ("<BBBBq", f"<{_CONTEXTS}IH", "<5IH")


class _Layout(NamedTuple):
    """Of an encoded window, what may change with its version."""

    version: int = window.VERSION
    rows_at: int = window.ROWS_AT
    row_bytes: int = window.ROW.size
    most_rows: int = window.EVENTS


class Kinds(NamedTuple):
    """The numbers of the kinds that scoring knows by name: constants that its loops are given."""

    page_view: int
    view_item_list: int
    view_item: int
    add_to_cart: int
    remove_from_cart: int
    view_cart: int
    begin_checkout: int
    add_payment_info: int
    review_order: int
    purchase: int
    search: int
    select_promotion: int


KIND: Final = Kinds(*map(KINDS.index, Kinds._fields))


class Rows(NamedTuple):
    """The N rows of a batch, [N] each; a window's lie together, oldest first."""

    item: Column  # uint32 hash, 0 for none, as in the next two
    category: Column
    page: Column
    kind: Column  # uint8 index into `events.KINDS`
    price_cents: Column  # int32, 0 for none
    age_ms: Column  # int64: how much older than the window's newest row
    gap_ms: Column  # int64: time since the row before; -1 for a window's oldest row
    sessions_back: Column  # uint8: 0 in the newest row's session, 1 in the one before, and so on
    opens: Column  # bool: whether the row opens a session within the window; its oldest row does


class Heads(NamedTuple):
    """What a batch's windows say once, [B] each."""

    lengths: Column  # int64: rows of the window, 1 to 64
    first: Column  # int64: the place of its oldest row
    sessions: Column  # int64: how many its rows go through
    newest_ms: Column  # int64
    context: Column  # [B, 7] uint32 hashes, in the order of `facts.CONTEXT`; 0 for none
    visit_number: Column  # int64, 0 where it is not known


@dataclass(frozen=True)
class Batch:
    """B windows with N rows in all."""

    heads: Heads
    rows: Rows

    @classmethod
    def of(cls, windows: Sequence[bytes]) -> "Batch":
        """Decodes at least one window; each may be cut off after its rows, for nothing behind them is read.

        Raises `Fatal` for bytes that the window's fold did not write.
        """
        content = np.frombuffer(b"".join(windows), np.uint8)
        sizes = np.fromiter(map(len, windows), np.int64, len(windows))
        sound, heads, rows = _decode(content, sizes, _Layout())
        if not sound:
            raise Fatal("a window to be scored does not fit its header; its state folder or changelog is damaged")
        return cls(heads, rows)

    def __len__(self) -> int:
        return len(self.heads.lengths)

    @property
    def lengths(self) -> Ints:
        """[B] rows of each window, 1 to 64."""
        return self.heads.lengths

    @property
    def events(self) -> int:
        """N."""
        return len(self.rows.kind)

    @property
    def first(self) -> Ints:
        """[B] the place of each window's oldest row."""
        return self.heads.first

    @cached_property
    def newest(self) -> Ints:
        """[B] the place of each window's newest row."""
        return self.heads.first + self.heads.lengths - 1


@compiled
def _decode(content: Column, sizes: Column, layout: _Layout) -> tuple[bool, Heads, Rows]:
    """Windows of the given sizes behind one another. False for bytes that are none, with columns of no meaning."""
    b = len(sizes)
    lengths, first = np.zeros(b, np.int64), np.zeros(b, np.int64)
    at = n = np.int64(0)
    for i in range(b):
        rows = np.int64(content[at + 2]) if sizes[i] > layout.rows_at else np.int64(0)
        if (
            not 1 <= rows <= layout.most_rows
            or sizes[i] < layout.rows_at + layout.row_bytes * rows
            or content[at] != layout.version
        ):
            b = 0  # nothing of it is decoded
            break
        lengths[i], first[i] = rows, n
        n += rows
        at += sizes[i]
    heads = Heads(
        lengths,
        first,
        np.empty(b, np.int64),
        np.empty(b, np.int64),
        np.empty((b, _CONTEXTS), np.uint32),
        np.empty(b, np.int64),
    )
    columns = Rows(
        np.empty(n, np.uint32),
        np.empty(n, np.uint32),
        np.empty(n, np.uint32),
        np.empty(n, np.uint8),
        np.empty(n, np.int32),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.uint8),
        np.empty(n, np.bool_),
    )
    at = np.int64(0)
    for i in range(b):
        heads.newest_ms[i] = _u32(content, at + _NEWEST_AT) | _u32(content, at + _NEWEST_AT + 4) << 32
        for k in range(_CONTEXTS):
            heads.context[i, k] = _u32(content, at + _CONTEXT_AT + 4 * k)
        heads.visit_number[i] = _u16(content, at + _VISIT_AT)
        heads.sessions[i] = _decode_rows(content, at + layout.rows_at, layout.row_bytes, heads, i, columns)
        at += sizes[i]
    return b > 0, heads, columns


@compiled
def _decode_rows(content: Column, at: np.int64, row_bytes: int, heads: Heads, i: int, rows: Rows) -> int:
    """Window i's rows, which begin at the byte `at`, into their places; how many sessions they go through."""
    newest_low = heads.newest_ms[i] & 0xFFFFFFFF
    oldest = heads.first[i]
    newest = oldest + heads.lengths[i] - 1
    age_before = session_before = np.int64(0)
    for n in range(oldest, newest + 1):
        age = (newest_low - _u32(content, at)) & 0xFFFFFFFF
        kind_price, session = _u32(content, at + 16), _u16(content, at + 20)
        gap = age_before - age if n > oldest else -1
        rows.item[n], rows.category[n] = _u32(content, at + 4), _u32(content, at + 8)
        rows.page[n] = _u32(content, at + 12)
        rows.kind[n], rows.price_cents[n] = kind_price & 0xFF, kind_price >> 8
        rows.age_ms[n], rows.gap_ms[n] = age, gap
        rows.opens[n] = n == oldest or session != session_before or (session == 0 and gap > SESSION_PAUSE_MS)
        age_before, session_before = age, session
        at += row_bytes
    sessions = 0
    for n in range(newest, oldest - 1, -1):
        rows.sessions_back[n] = sessions
        sessions += rows.opens[n]
    return sessions


@compiled
def _u32(content: Column, at: np.int64) -> np.int64:
    """Little endian, from any place. Unsigned places cannot count from the end, so that the compiler makes one load."""
    place = np.uint64(at)
    low = np.int64(content[place]) | np.int64(content[place + np.uint64(1)]) << 8
    return low | np.int64(content[place + np.uint64(2)]) << 16 | np.int64(content[place + np.uint64(3)]) << 24


@compiled
def _u16(content: Column, at: np.int64) -> np.int64:
    place = np.uint64(at)
    return np.int64(content[place]) | np.int64(content[place + np.uint64(1)]) << 8
