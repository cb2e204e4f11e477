"""The fetched records of one partition that wait: a bounded queue of whole fetches, taken out as batches.

Owns how much may wait and how much goes into one batch, in events and in bytes of keys, values and headers, with what
each header takes in memory. Knows neither offsets nor what becomes of the records.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from worker.fold import BATCH_BYTES, Record, sizes


@dataclass(frozen=True, slots=True)
class Share:
    """A bound of events that wait, in number and in bytes of keys, values and headers."""

    events: float
    bytes: float


class Piece(NamedTuple):
    """Records of one fetch that go into one batch, and the bytes of their keys, values and headers."""

    records: Sequence[Record]
    bytes: int


class FetchQueue:
    """A batch is at most `max_batch_events`; `share` is asked for each time, since it changes with the assignment."""

    def __init__(self, *, max_batch_events: int, share: Callable[[], Share]) -> None:
        self.events = 0
        """Those that wait."""
        self.bytes = 0
        """Of their keys, values and headers."""
        self._limit = max_batch_events
        self._share = share
        self._pieces: deque[Piece] = deque()
        self._more = asyncio.Event()
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether it holds its share. What is large need not be many: a topic may hold records of megabytes."""
        share = self._share()
        return self.events >= share.events or self.bytes >= share.bytes

    def put(self, records: Sequence[Record]) -> None:
        """One fetch, of at least one record. Never refused: whoever fetches asks first whether it is `full`."""
        for piece in _pieces(records, self._limit):
            self._pieces.append(piece)
            self.events += len(piece.records)
            self.bytes += piece.bytes
        self._more.set()

    async def take(self, early_s: float) -> Sequence[Record]:
        """Whatever has arrived, at most `max_batch_events` or `BATCH_BYTES`, once it is so much or `early_s` are over.
        Empty once it is closed.
        """
        if early_s > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._wait(lambda: self.full or self.events >= self._limit or self.bytes >= BATCH_BYTES), early_s
                )
        await self._wait(lambda: self.events > 0)
        if self._closed:
            return []
        records, held = list(self._pieces[0].records), self._pieces.popleft().bytes
        while self._pieces and len(records) + len(self._pieces[0].records) <= self._limit:
            if held + self._pieces[0].bytes > BATCH_BYTES:
                break
            piece = self._pieces.popleft()
            records.extend(piece.records)
            held += piece.bytes
        self.events -= len(records)
        self.bytes -= held
        return records

    async def _wait(self, enough: Callable[[], bool]) -> None:
        while not (enough() or self._closed):
            self._more.clear()
            await self._more.wait()

    def close(self) -> None:
        """Drop what waits; whoever takes gets nothing from now on."""
        self._closed = True
        self._pieces.clear()
        self.events = self.bytes = 0
        self._more.set()


def _pieces(records: Sequence[Record], limit: int) -> Iterator[Piece]:
    """Each of at most `limit` records and `BATCH_BYTES`, or of one record that is larger. Nearly always one."""
    bytes_of = sizes(records)
    if len(records) <= limit and (whole := sum(bytes_of)) <= BATCH_BYTES:
        yield Piece(records, whole)
        return
    start = total = 0
    for place, size in enumerate(bytes_of):
        if place > start and (place - start == limit or total + size > BATCH_BYTES):
            yield Piece(records[start:place], total)
            start, total = place, 0
        total += size
    yield Piece(records[start:], total)
