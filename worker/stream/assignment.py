"""The assigned source partitions: opened, started, fed and closed together, and how much they may hold.

Owns back-pressure and what the group may commit. Knows neither where records come from nor what a partition does with
them.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTransactionTimeout
from faust.types import TP

from worker.errors import Fatal
from worker.fold import Record
from worker.stream import hanging
from worker.stream.fetchqueue import Share
from worker.stream.partition import Partition, Shared
from worker.stream.table import Store

QUEUED_BYTES: Final = 128 << 20
"""Of keys, values and headers that wait, over all partitions. A fetch more of each may be on its way, as for the
number.
"""

log = structlog.get_logger(__name__)


class Partitions:
    """The assigned source partitions, and how much they may hold."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._parts: dict[TP, Partition] = {}
        self._room = asyncio.Event()
        self._closing = asyncio.Lock()
        self.progressed_at = time.monotonic()
        self.taken_back: dict[int, int] = {}
        """By partition, the changelog offset from which on all hung and is aborted now: see `hanging`."""
        self.committed: dict[TP, int] = {}
        """The next source offset that is not done, for the group's offsets; the watermark is the truth."""

    @property
    def queued(self) -> int:
        """Fetched events that wait, over all partitions."""
        return sum(part.queue.events for part in self._parts.values())

    @property
    def full(self) -> set[TP]:
        """Of these nothing more is to be fetched for now.

        Each has an equal share of the bound, so that one with most of the traffic does not hold up the others.
        """
        return {tp for tp, part in self._parts.items() if part.queue.full}

    @property
    def share(self) -> Share:
        """What each may hold of what may wait in all."""
        parts = max(1, len(self._parts))
        return Share(self._shared.settings.worker.max_queued_events / parts, QUEUED_BYTES / parts)

    def due_of(self, tp: TP) -> int | None:
        """The next source offset of one that runs."""
        part = self._parts.get(tp)
        return None if part is None else part.due

    @property
    def recovered(self) -> bool:
        """All assigned partitions are started."""
        return all(part.recovered for part in self._parts.values())

    @property
    def live(self) -> bool:
        """All assigned partitions do their work."""
        return all(part.live for part in self._parts.values())

    @property
    def lag(self) -> int:
        """Source offsets not done, over all partitions."""
        return sum(part.lag for part in self._parts.values())

    async def room(self, within_s: float) -> None:
        """Wait until a partition has taken events from its queue, at most so long."""
        self._room.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), within_s)

    def due(self) -> dict[TP, int]:
        """The next source offset of every partition that runs."""
        return {tp: part.due for tp, part in self._parts.items() if part.due is not None}

    async def open(self, tps: Iterable[TP], generation: int) -> None:
        """A producer for each partition, and the id of the topic that they are of.

        Initialising it ends what a former owner left open and fences it off, which has to happen before recovery looks
        for the changelog's end. The id is asked for before anything is fetched: a topic that is made anew after that
        is done under an id that is not its own, and so refused by the next assignment.
        """
        await self.close()
        self.taken_back.clear()
        worker = self._shared.settings.worker
        wanted = sorted(tps)
        if not wanted:
            return
        async with asyncio.timeout(worker.request_timeout_s):
            topic_id, *producers = await asyncio.gather(
                asyncio.to_thread(self._shared.events_id), *(self._started(tp.partition) for tp in wanted)
            )
        async with asyncio.timeout(worker.recovery_timeout_s):
            await asyncio.gather(*map(self._end_what_hangs, producers, wanted))
        self._parts = {
            tp: Partition(
                tp, topic_id=topic_id, generation=generation, producer=producer, shared=self._shared, owner=self
            )
            for tp, producer in zip(wanted, producers, strict=True)
        }

    async def _started(self, partition: int) -> AIOKafkaProducer:
        try:
            producer = self._shared.new_producer(partition)
            await producer.start()
        except InvalidTransactionTimeout as error:
            raise Fatal(
                "the brokers allow no transaction of twice `worker.transaction_timeout_s`, which is "
                f"{self._shared.settings.worker.transaction_timeout_s:g}; lower it, or raise the brokers' "
                "`transaction.max.timeout.ms`"
            ) from error
        return producer

    async def _end_what_hangs(self, producer: AIOKafkaProducer, tp: TP) -> None:
        stray = await hanging.end(producer, self._shared.written(tp), partition=tp.partition)
        if stray is not None:
            self.taken_back[tp.partition] = stray

    def start(self, tps: Iterable[TP], store: Store, generation: int) -> None:
        """Recovery is done for these."""
        for tp in tps:
            part = self._parts.get(tp)
            if part is not None and not part.recovered and part.generation == generation:
                part.start(store)

    def feed(self, tp: TP, records: Sequence[Record], end_offset: int | None) -> int | None:
        """One fetch to its partition; says the offset to seek to, if another fetch is due."""
        part = self._parts.get(tp)
        if part is None:
            return None
        if end_offset is not None:
            if part.lag == 0:
                self.progressed()  # work arrives where none was left
            part.end_offset = end_offset
        return part.feed(records)

    def read_to_the_end(self, tp: TP) -> None:
        """Nothing that may be read follows what was fed: what else holds offsets there is no lag."""
        part = self._parts.get(tp)
        if part is not None and part.due is not None:
            part.end_offset = min(part.end_offset, part.due)

    async def close(self) -> list[int]:
        """Close all, each finishing its batch or giving it up; which gave it up. A stop and a rebalance may ask at
        once: none returns before all are closed.
        """
        async with self._closing:
            parts, self._parts = self._parts, {}
            within_s = self._shared.settings.worker.shutdown_timeout_s
            finished = await asyncio.gather(*(part.close(within_s) for part in parts.values()))
        for tp, part in parts.items():
            if part.recovered:
                self._shared.metrics.forget_partition(tp.partition)
        self.moved()
        return [tp.partition for tp, whole in zip(parts, finished, strict=True) if not whole]

    def forget(self) -> None:
        """The partitions are revoked: their offsets are their next owner's to commit."""
        self.committed.clear()

    def progressed(self) -> None:
        """Events are done. That others arrive says nothing of those that wait before them."""
        self.progressed_at = time.monotonic()

    def moved(self) -> None:
        """Events came to a partition's queue, or left it."""
        self._shared.metrics.stream_queue_events.set(self.queued)
        self._room.set()
