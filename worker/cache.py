"""The write-behind cache of one partition's windows: what RocksDB does not hold yet, and what it was given last. Pure,
but for the time of writing.

A batch's windows are seen by the batches behind it at once; they are written when they amount to something. Since the
published changelog is the durable copy, a worker that dies before that reads back from there what is missing. A user
with many events costs one write instead of many, and most reads none. Knows neither RocksDB nor Kafka.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from worker.fold import Batch
from worker.watermark import Watermark

WRITE_BYTES: Final = 1 << 20
"""About 4,000 windows, written in 10 ms. The cache of a partition holds twice that, and what is not published yet."""
WRITE_S: Final = 1.0
"""So much of its own changelog a killed worker reads back, or `WRITE_BYTES` of it."""

Changes = Mapping[bytes, bytes | None]
"""User key to window; `None` for a user who was erased or has expired."""


class Cache:
    """Over the look-up `stored`."""

    def __init__(self, stored: Callable[[bytes], bytes | None]) -> None:
        self._stored = stored
        self._folded: deque[Changes] = deque()
        """Of each batch that is not published, the newest first."""
        self._published: dict[bytes, bytes | None] = {}
        """What may be written, and is not."""
        self._written: Changes = {}
        """The last that was."""
        self._reached: tuple[Watermark, int] | None = None
        self._bytes = 0
        self._due_s = 0.0

    def window(self, key: bytes) -> bytes | None:
        """The user's window as of the last batch."""
        for changed in self._folded:
            if key in changed:
                return changed[key]
        if key in self._published:
            return self._published[key]
        if key in self._written:
            return self._written[key]
        return self._stored(key)

    def add(self, changed: Changes) -> None:
        """Show a batch's windows to the batches behind it. They are published in the order in which they come here."""
        self._folded.appendleft(changed)

    def published(self, batch: Batch, changelog_offset: int) -> None:
        """The oldest batch is durable; its last record in the changelog is at that offset."""
        oldest = self._folded.pop()
        assert oldest is batch.changed
        self._published.update(batch.changed)
        self._bytes += sum(len(key) + len(window or b"") for key, window in batch.changed.items())
        self._reached = batch.watermark, changelog_offset

    @property
    def due(self) -> bool:
        """Whether what is published should be written now."""
        return self._bytes >= WRITE_BYTES or time.monotonic() >= self._due_s

    def write(self, store: Callable[[Changes, Watermark, int], None]) -> None:
        """Hand out all that is published: windows, watermark and changelog offset, which belong together."""
        if self._reached is None:
            return
        written = self._published
        store(written, *self._reached)
        self._written, self._published, self._reached = written, {}, None
        self._bytes, self._due_s = 0, time.monotonic() + WRITE_S
