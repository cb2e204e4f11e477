"""Many encoded windows as columns: the one place where scoring knows the window's byte layout.

Owns the decoding (vectorised: a join and one `frombuffer`, no loop over rows) and what every reader of a window needs:
whose row it is, its age, its session. Knows no vocabulary, no model and no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worker import window
from worker.errors import Fatal
from worker.facts import CONTEXT

HEADER: Final = np.dtype(
    [
        ("version", "u1"),
        ("n_ids", "u1"),
        ("n_rows", "u1"),
        ("flags", "u1"),
        ("newest_ms", "<i8"),
        ("context", "<u4", (7,)),
        ("visit_number", "<u2"),
    ]
)
"""`window.HEADER` and `facts.CONTEXT`."""

ROW: Final = np.dtype(
    [("time", "<u4"), ("item", "<u4"), ("category", "<u4"), ("page", "<u4"), ("kind_price", "<u4"), ("session", "<u2")]
)
"""`window.ROW`."""

assert HEADER.itemsize == window.HEADER.size + CONTEXT.size == window.ROWS_AT
assert ROW.itemsize == window.ROW.size

SESSION_PAUSE_MS: Final = 30 * 60_000

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """B windows with N rows in all; a window's rows lie together, oldest first."""

    header: NDArray[Any]  # [B] HEADER
    row: NDArray[Any]  # [N] ROW
    lengths: Ints  # [B] rows of each window, 1 to 64

    @classmethod
    def of(cls, windows: Sequence[bytes]) -> "Batch":
        """Decodes at least one window; each may be cut off after its rows, for nothing behind them is read.

        Raises `Fatal` for bytes that the window's fold did not write.
        """
        at, size = window.ROWS_AT, ROW.itemsize
        if min(map(len, windows)) < at + size:
            raise Fatal("a window to be scored is shorter than one event; its state folder or changelog is damaged")
        header = np.frombuffer(b"".join([encoded[:at] for encoded in windows]), HEADER)
        row = np.frombuffer(b"".join([encoded[at : at + size * encoded[2]] for encoded in windows]), np.uint8)
        lengths = header["n_rows"].astype(np.int64)
        sound = (header["version"] == window.VERSION) & (lengths >= 1) & (lengths <= window.EVENTS)
        if not sound.all() or len(row) != size * lengths.sum():
            raise Fatal("a window to be scored does not fit its header; its state folder or changelog is damaged")
        return cls(header, row.view(ROW), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def first(self) -> Ints:
        """[B] the place of each window's oldest row."""
        return np.concatenate(([0], np.cumsum(self.lengths)[:-1]))

    @cached_property
    def newest(self) -> Ints:
        """[B] the place of each window's newest row."""
        return np.asarray(np.cumsum(self.lengths) - 1)

    @cached_property
    def owner(self) -> Ints:
        """[N] the window of each row."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def back(self) -> Ints:
        """[N] how many rows of the same window are newer."""
        return np.asarray(self.newest[self.owner] - np.arange(len(self.row)))

    @cached_property
    def age_ms(self) -> Ints:
        """[N] how much older than the window's newest row."""
        newest = (self.header["newest_ms"] & 0xFFFFFFFF).astype(np.uint32)
        age = newest[self.owner] - self.row["time"]  # wraps as unsigned 32-bit integers, as the layout wants
        return np.asarray(age, np.int64)

    @cached_property
    def gap_ms(self) -> Ints:
        """[N] time since the row before; -1 for a window's oldest row."""
        gap = np.empty_like(self.age_ms)
        gap[1:] = self.age_ms[:-1] - self.age_ms[1:]
        gap[self.first] = -1
        return gap

    @cached_property
    def kind(self) -> Ints:
        """[N] index into `events.KINDS`."""
        return (self.row["kind_price"] & 0xFF).astype(np.int64)

    @cached_property
    def price_cents(self) -> Ints:
        """[N] 0 for none."""
        return (self.row["kind_price"] >> 8).astype(np.int64)

    @cached_property
    def opens(self) -> Bools:
        """[N] whether the row opens a session within the window (its oldest row does).

        Where a shop sends no session ids, a pause of `SESSION_PAUSE_MS` opens one.
        """
        session = self.row["session"]
        opens: Bools = (session == 0) & (self.gap_ms > SESSION_PAUSE_MS)
        opens[1:] |= session[1:] != session[:-1]
        opens[self.first] = True
        return opens

    @cached_property
    def sessions(self) -> Ints:
        """[B] how many sessions the window's rows go through."""
        return np.add.reduceat(self.opens.astype(np.int64), self.first)

    @cached_property
    def sessions_back(self) -> Ints:
        """[N] 0 in the newest row's session, 1 in the one before, and so on."""
        so_far = np.cumsum(self.opens)
        return so_far[self.newest][self.owner] - so_far

    @cached_property
    def current(self) -> Bools:
        """[N] whether the row is in the newest row's session."""
        return np.asarray(self.sessions_back == 0)

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """[N] or [N, K] -> the sum over each window's rows, [B] or [B, K]."""
        return np.asarray(np.add.reduceat(values, self.first, axis=0))

    def any(self, flags: Bools) -> Bools:
        """[N] -> [B] whether any row of the window has the flag."""
        return np.logical_or.reduceat(flags, self.first)
