"""Transactions that hang: written, never marked as committed or aborted, and nobody left who could (KIP-664).

Kafka 4.3 leaves out marks of a transaction, and says that it is complete, where it knows no leader of a partition at
that moment: the only node of a cluster is stopped during a commit, or frozen for longer than its session. Readers of
committed records wait there for ever, and whatever ends the next transaction of the same producer ends this one too. So
a worker begins none before the last is seen (`marks`), and what a former owner left open is ended here, before its
successor's first transaction. Knows nothing of windows.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, Self

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from worker import watermark
from worker.errors import Fatal
from worker.kafka import clients
from worker.scores import Headers
from worker.settings import Settings
from worker.stream import marks
from worker.stream.transaction import SURE_S, add
from worker.watermark import Watermark

Place = Callable[[Headers], int | None]
"""Of which source offset an output's record is; `None` for one that is not of this partition's events."""
Isolation = Literal["read_committed", "read_uncommitted"]
Reader = Callable[[Isolation], AIOKafkaConsumer]

_SETTLED_S: Final = 2 * SURE_S
"""So long a former owner's marks may take, and the readers' end behind them, before a transaction is said to hang."""
_ASK_AGAIN_S: Final = 0.05
_FETCH_WAIT_MS: Final = 20
"""aiokafka asks a broker for no other chunk while one is awaited."""
_CHUNKS: Final = 64, 4096
"""Records that are read at once on the way back: at first, and at most."""
_APART_MS: Final = 600_000
"""No further apart are the records of one transaction in time, clocks that were set included."""

log = structlog.get_logger(__name__)


class Topics(NamedTuple):
    """What a partition's transactions write to, and how to read it."""

    changelog: str
    outputs: Sequence[str]
    place: Place
    reader: Reader


def reader(settings: Settings) -> Reader:
    """Makes consumers of no group, not started yet."""

    def make(isolation: Isolation) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **clients.aiokafka(settings.kafka),
            isolation_level=isolation,
            enable_auto_commit=False,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_poll_records=_CHUNKS[1],
            request_timeout_ms=int(settings.worker.request_timeout_s * 1000),
        )

    return make


async def end(sender: AIOKafkaProducer, topics: Topics, *, partition: int) -> int | None:
    """End what hangs in the changelog, in which every transaction takes part.

    As it counts: committed where an output shows any of it, else aborted, and its events are done again; answers the
    changelog offset from which on that is. The producer is started, so that a former owner is fenced off and what it
    began has ended, as far as Kafka knows. To be called before recovery looks for the changelog's end; bounded by the
    caller. Raises `Fatal` for what this producer cannot end.
    """
    tp = TopicPartition(topics.changelog, partition)
    stray = await _left_open(sender, tp)
    if stray is None:
        return None
    shown = await _shown(sender, topics, tp, stray)
    await _end(sender, tp, stray, also=() if shown else topics.outputs, commit=shown)
    if await _left_open(sender, tp) == stray:  # as long as recovery would not read it, whose end is that of readers
        raise Fatal(
            f"a transaction that began at offset {stray} of {tp.topic} in partition {partition} hangs and is of a "
            "producer that Kafka has forgotten; abort it with `kafka-transactions.sh --bootstrap-server ... abort "
            f"--topic {tp.topic} --partition {partition} --start-offset {stray}`"
        )
    return None if shown else stray


async def settle(sender: AIOKafkaProducer, topics: Topics, *, partition: int, done: int) -> None:
    """End what hangs in the output topics, now that it is known how far events are done.

    `done` is the last source offset whose transaction counts: what is beyond is taken back, what is not becomes visible
    at once. Before the partition's first transaction; bounded by the caller.
    """
    tps = [TopicPartition(topic, partition) for topic in topics.outputs]
    strays = await asyncio.gather(*(_left_open(sender, tp) for tp in tps))
    for tp, stray in zip(tps, strays, strict=True):
        if stray is not None:
            end, newest = (await marks.ends(sender, [tp], marks.UNCOMMITTED))[tp], -1
            async with _Reading(topics.reader("read_uncommitted")) as reading:
                async for record in reading.between(tp, stray, end):
                    place = topics.place(record.headers)
                    newest = newest if place is None else max(newest, place)
            # Behind an open transaction of others stand ours that are committed, before the one that hangs.
            if not await _end(sender, tp, stray, commit=newest <= done):
                log.warning("readers wait for others", topic=tp.topic, partition=tp.partition, offset=stray)


async def _end(
    sender: AIOKafkaProducer, tp: TopicPartition, stray: int, *, also: Iterable[str] = (), commit: bool
) -> bool:
    """Returns when the end is marked; whether readers get past it: what still stands there is of others."""
    tps = [TopicPartition(topic, tp.partition) for topic in (tp.topic, *also)]
    last = {tp: end - 1 for tp, end in (await marks.ends(sender, tps, marks.UNCOMMITTED)).items()}
    await sender.begin_transaction()
    add(sender, [tp.topic, *also], tp.partition)
    await (sender.commit_transaction() if commit else sender.abort_transaction())
    await marks.seen(sender, last)
    if (await marks.ends(sender, [tp], marks.COMMITTED))[tp] == stray:
        return False
    log.error("hanging transaction ended", topic=tp.topic, partition=tp.partition, offset=stray, aborted=not commit)
    return True


async def _left_open(sender: AIOKafkaProducer, tp: TopicPartition) -> int | None:
    """The first offset that is neither committed nor aborted, though nobody is left who could end it."""
    end = (await marks.ends(sender, [tp], marks.UNCOMMITTED))[tp]  # what others write behind it is not ours
    stood, since = -1, 0.0
    while (stable := (await marks.ends(sender, [tp], marks.COMMITTED))[tp]) < end:
        if stable != stood:  # at first, and wherever others get on
            stood, since = stable, time.monotonic()
        if time.monotonic() - since > _SETTLED_S:
            return stable
        await asyncio.sleep(_ASK_AGAIN_S)
    return None


async def _shown(sender: AIOKafkaProducer, topics: Topics, changelog: TopicPartition, stray: int) -> bool:
    """Whether readers of committed records see in any output something of what hangs in the changelog from `stray` on:
    of the source offsets behind the watermark before it, up to its own.
    """
    end, last, since_ms = (await marks.ends(sender, [changelog], marks.UNCOMMITTED))[changelog], -1, sys.maxsize
    async with _Reading(topics.reader("read_uncommitted")) as reading:
        async for record in reading.between(changelog, stray, end):
            last, since_ms = max(last, _done(record)), min(since_ms, record.timestamp - _APART_MS)
    async with _Reading(topics.reader("read_committed")) as reading:
        before = -1
        async for record in reading.back(changelog, stray):
            if record.key == watermark.KEY:
                before = _done(record)
                break
        tps = [TopicPartition(topic, changelog.partition) for topic in topics.outputs]
        for tp, stable in (await marks.ends(sender, tps, marks.COMMITTED)).items():
            async for record in reading.back(tp, stable):
                place = topics.place(record.headers)
                if place is not None and before < place <= last:
                    return True
                if record.timestamp < since_ms or (place is not None and place <= before):
                    break
    return False


def _done(record: Any) -> int:
    return Watermark.decode(record.value).offset if record.key == watermark.KEY else -1


class _Reading:
    """Parts of topics, while it is entered. Raises `Fatal` for a topic that may not be read."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def between(self, tp: TopicPartition, start: int, end: int) -> AsyncIterator[Any]:
        """The records from `start` on and before `end`."""
        try:
            self._consumer.assign([tp])
            self._consumer.seek(tp, start)
            while await self._consumer.position(tp) < end:
                for records in (await self._consumer.getmany(tp, timeout_ms=1000)).values():
                    for record in records:
                        if record.offset < end:
                            yield record
        except TopicAuthorizationFailedError as error:
            raise Fatal(
                f"Kafka lost the marks of a commit, and what hangs in {tp.topic} cannot be told from what counts, "
                f"since this worker may not read the topic; grant it READ on {tp.topic}"
            ) from error

    async def back(self, tp: TopicPartition, end: int) -> AsyncIterator[Any]:
        """All records before `end`, the newest first."""
        beginning = (await self._consumer.beginning_offsets([tp]))[tp]
        chunk, most = _CHUNKS
        while end > beginning:
            start = max(beginning, end - chunk)
            for record in reversed([record async for record in self.between(tp, start, end)]):
                yield record
            end, chunk = start, min(4 * chunk, most)
