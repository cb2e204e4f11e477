"""One assigned source partition: its transactions and its ordered loop. The live `Port` of the pipeline.

Owns which fetched record is next (contiguity) and which topics a batch goes to. Knows neither Faust's consumer, which
feeds records in, nor the other partitions.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaProducer
from faust.types import TP

from worker import scores, watermark
from worker.cache import Changes
from worker.clock import now_ms
from worker.errors import Fatal
from worker.fold import Batch, Record
from worker.ops.metrics import Metrics
from worker.pipeline import run
from worker.scores import Rating
from worker.settings import Settings
from worker.stream import folder, hanging, transaction
from worker.stream.fetchqueue import FetchQueue, Share
from worker.stream.hanging import Topics
from worker.stream.output import render, source_offset
from worker.stream.quota import quota
from worker.stream.shadow import Shadow
from worker.stream.table import Store
from worker.watermark import Watermark
from worker.window import Rules

_RENEW_S: Final = 3600.0
"""Kafka forgets a transactional id of which it hears nothing for a week (`transactional.id.expiration.ms`), and refuses
the next transaction: the first event after a quiet week ended the worker. Far above a transaction's time-out.
"""
_PATIENCE: Final = 1 / 2
"""Of the time for closing: so long a batch may still take to be scored. The rest is for its commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all partitions of a worker have in common."""

    settings: Settings
    engine: Any  # scoring.engine.Engine: importing it here would import torch
    metrics: Metrics
    new_producer: Callable[[int], AIOKafkaProducer]
    events_id: Callable[[], str]
    """Asks a broker for the id of the events topic; blocks."""
    fatal: Callable[[str, BaseException | None], Any]
    shadow: Shadow | None = None

    def written(self, tp: TP) -> Topics:
        """What this source partition's transactions write to."""
        return Topics(
            self.settings.changelog,
            self.settings.topics.outputs,
            place=partial(source_offset, topic=tp.topic, partition=tp.partition),
            reader=hanging.reader(self.settings),
        )

    @property
    def rules(self) -> Rules:
        """The window rule's limits."""
        limits = self.settings.window
        return Rules.of_seconds(max_lateness_s=limits.max_lateness_s, expire_after_s=limits.expire_after_s)


class Owner(Protocol):
    """Whom a partition tells."""

    committed: dict[TP, int]

    @property
    def share(self) -> Share:
        """What each partition may hold of fetched events."""

    def moved(self) -> None:
        """Events came to the partition's queue, or left it."""

    def progressed(self) -> None:
        """Events are done."""


class Partition:
    """One partition, of one assignment."""

    def __init__(
        self, tp: TP, *, topic_id: str, generation: int, producer: AIOKafkaProducer, shared: Shared, owner: Owner
    ) -> None:
        self.tp = tp
        self.topic_id = topic_id
        self.generation = generation
        self.end_offset = 0
        self.queue = FetchQueue(max_batch_events=shared.settings.worker.max_batch_events, share=lambda: owner.share)
        self.due: int | None = None
        """The next source offset to be fetched; unknown until the table is recovered."""
        self._producer = producer
        self._shared = shared
        self._owner = owner
        self.live = False
        """Running, and nothing of a former owner is left to be ended: events that arrive get scores."""
        self._sought: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._store: Store | None = None

    # -- in ------------------------------------------------------------------------------------------------------------

    @property
    def recovered(self) -> bool:
        """The table is, and it has been started."""
        return self._task is not None

    @property
    def lag(self) -> int:
        """Source offsets from the watermark to the end of the partition."""
        return max(0, self.end_offset - self._owner.committed.get(self.tp, self.end_offset))

    def start(self, store: Store) -> None:
        """The table is recovered: read the watermark, begin after it. Raises `Fatal` where it is another topic's."""
        self._store = store
        self._read = store.read(self.tp.partition)
        self._browsed = self._read(folder.BROWSED) or b""
        start = Watermark.decode(self._read(watermark.KEY)).of(self.tp.topic, self.topic_id)
        self.due = self._owner.committed[self.tp] = start.offset + 1
        self._show(start)
        self._task = asyncio.create_task(self._run(start), name=f"partition-{self.tp.partition}")
        self._task.add_done_callback(self._ended)

    async def _run(self, start: Watermark) -> None:
        """All of the partition's events, from the watermark on."""
        shared = self._shared
        async with asyncio.timeout(shared.settings.worker.recovery_timeout_s):
            await hanging.settle(
                self._producer, shared.written(self.tp), partition=self.tp.partition, done=start.offset
            )
        self.live = True
        await run(
            self,
            engine=shared.engine,
            start=start,
            rules=shared.rules,
            mode=shared.settings.worker.mode,
            metrics=shared.metrics,
            now_ms=now_ms,
            failed=lambda error: shared.fatal(f"a commit of partition {self.tp.partition} failed", error),
            commit_interval_s=shared.settings.worker.commit_interval_s,
        )

    def feed(self, records: Sequence[Record]) -> int | None:
        """Queue one fetch. Says the offset to seek to, when the fetch is not the one that is due.

        A fetch that starts after the next offset may show a hole in the source (transaction markers, compaction,
        retention) or have gone astray in a rebalance. Only one that was asked for from exactly there proves the hole.
        Raises `Fatal` where it proves that the topic ends before what is done of it.
        """
        due = self.due
        if due is None:  # not recovered yet; Faust seeks once it is
            return None
        if records[-1].offset < due:
            if self._sought == due and self.end_offset < due:
                raise Fatal(
                    f"{self.tp.topic} ends at offset {self.end_offset} in partition {self.tp.partition}, of which "
                    f"{due} are done: the topic has lost records, or was created anew, or is another; give it an "
                    "application and a folder (`worker.application_id`, `worker.data_dir`) of its own, or name the "
                    "topic that was read before"
                )
            self._sought = due
            return due
        if records[0].offset > due and self._sought != due:
            self._sought = due
            return due
        if records[0].offset < due:
            records = [record for record in records if record.offset >= due]
        self.due = records[-1].offset + 1
        self.queue.put(records)
        self._owner.moved()
        return None

    async def take(self, early_s: float) -> Sequence[Record]:
        """Whatever has arrived, at most `max_batch_events` or `BATCH_BYTES`, once it is so much or `early_s` are over.
        Empty once the partition closes.
        """
        while True:
            try:
                async with asyncio.timeout(_RENEW_S):
                    records = await self.queue.take(early_s)
            except TimeoutError:  # by now the batch before is committed, or has ended the process
                changelog = self._shared.settings.changelog
                async with self._in_time():
                    await transaction.renew(self._producer, [changelog], partition=self.tp.partition)
            else:
                if records:
                    self._owner.moved()
                return records

    def window(self, key: bytes) -> bytes | None:
        """The user's window in RocksDB."""
        return self._read(key)

    def browse(self, count: int) -> Iterable[tuple[bytes, bytes]]:
        """The next users in RocksDB, each once: behind the last one, the first."""
        assert self._store is not None
        found = self._store.browse(self.tp.partition, after=self._browsed, count=count)
        if self._browsed and len(found) < count:
            again = self._store.browse(self.tp.partition, after=b"", count=count - len(found))
            found += [item for item in again if item[0] <= self._browsed]
        self._browsed = found[-1][0] if found else b""
        return found

    # -- out -----------------------------------------------------------------------------------------------------------

    async def publish(self, batch: Batch, ratings: Sequence[Rating]) -> int:
        """One Kafka transaction. Raises after `transaction_timeout_s`: the producer itself never gives up."""
        settings = self._shared.settings
        rendered = render(
            batch,
            ratings,
            topic=self.tp.topic,
            partition=self.tp.partition,
            application=settings.worker.application_id,
            scored_at=scores.rfc3339(now_ms()),
        )
        records = {
            settings.changelog: rendered.changelog,
            settings.topics.scores: rendered.scores,
            settings.topics.latest: rendered.latest,
            settings.topics.dead_letters: rendered.dead_letters,
        }
        async with self._in_time():
            ends = await transaction.commit(self._producer, records, partition=self.tp.partition)
        return ends[settings.changelog]

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Around a transaction."""
        limit_s = self._shared.settings.worker.transaction_timeout_s
        begin = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as error:
            cause = quota.blamed(begin) or "look at the brokers"
            raise Fatal(f"it was not over after {limit_s:g} s (`worker.transaction_timeout_s`); {cause}") from error

    def store(self, windows: Changes, mark: Watermark, changelog_offset: int) -> None:
        """Windows, watermark and changelog offset, as one write."""
        assert self._store is not None
        items = [*windows.items(), (watermark.KEY, mark.encode()), (folder.BROWSED, self._browsed)]
        self._store.write(self.tp.partition, items, changelog_offset)

    def done(self, batch: Batch, ratings: Sequence[Rating]) -> None:
        """Tell the group, the metrics, and the shadow if there is one."""
        self._owner.committed[self.tp] = batch.watermark.offset + 1
        self._owner.progressed()
        self._show(batch.watermark)
        if self._shared.shadow is not None:
            self._shared.shadow.consider(self.tp.partition, batch.updated, ratings)

    def _show(self, mark: Watermark) -> None:
        self._shared.metrics.show_progress(
            partition=self.tp.partition, watermark=mark.offset, lag_events=lambda: self.lag
        )

    # -- end -----------------------------------------------------------------------------------------------------------

    async def close(self, within_s: float) -> bool:
        """Take no other batch, finish the one in hand or give it up, stop the producer; whether it was finished.
        Nothing of this partition runs afterwards. Raises `Fatal` where a commit does not end.

        Given up is what has not begun to be committed after a part of the time: who has the partition next does it
        again. With a backlog in many partitions all share one model, each batch takes as long as all of them do, and
        the workers of a group ended each other with every rebalance before one of them had committed anything.
        """
        self.queue.close()
        finished = True
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=within_s * _PATIENCE)
            if late:
                self._task.cancel()
                _, late = await asyncio.wait([self._task], timeout=within_s * (1 - _PATIENCE))
            if late:
                raise Fatal(f"partition {self.tp.partition} did not finish its commit within {within_s:g} s")
            finished = not self._task.cancelled()
        await asyncio.wait_for(self._producer.stop(), within_s)
        return finished

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._shared.fatal(f"partition {self.tp.partition} failed", error)
