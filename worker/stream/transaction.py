"""One Kafka transaction of one partition: begin, send, await every acknowledgement, commit. All that knows aiokafka's
producer. Knows nothing of what the records mean.

Private parts of aiokafka 0.14.0 in use: `BatchBuilder._builder`, `BatchBuilder._relative_offset`,
`AIOKafkaProducer._txn_manager`, `record._crecords.default_records.lz4_encode`, `TransactionManager.error_transaction`,
`TransactionManager._sequence_numbers`, `protocol.offset.OffsetRequest`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.codec import lz4_encode
from aiokafka.errors import KafkaError, LeaderNotAvailableError, TopicAuthorizationFailedError, for_code
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record._crecords import default_records
from aiokafka.structs import TopicPartition

from worker.clock import now_ms
from worker.errors import Fatal
from worker.kafka import clients
from worker.scores import Headers
from worker.settings import Settings
from worker.stream.output import OutRecord

Place = Callable[[Headers], int | None]
Reader = Callable[[], AIOKafkaConsumer]

log = structlog.get_logger(__name__)

# aiokafka asks for level 9, which spends ten times the time of level 1 on a fifth less bytes: 5 µs an event.
default_records.lz4_encode = partial(lz4_encode, level=1)


def _end_sender(_: TransactionManager, error: BaseException) -> NoReturn:
    raise error


# When a topic is refused, aiokafka would send the other topics' batches all the same, though none was added to the
# transaction. A broker that has yet to write the last commit's markers takes them, and those commit them: windows
# without their scores. It took a refused topic and a broker's restart at once.
TransactionManager.error_transaction = _end_sender


def _increment_sequence(manager: TransactionManager, tp: TopicPartition, count: int) -> None:
    numbers = manager._sequence_numbers  # noqa: SLF001
    numbers[tp] = (numbers[tp] + count) % (1 << 31)


# aiokafka goes on at -2**31, Kafka at 0: it would refuse the batch behind the 2,147,483,648th record of a partition.
TransactionManager.increment_sequence_number = _increment_sequence

MAX_RECORD_BATCH_BYTES: Final = 512 << 10
MAX_REQUEST_BYTES: Final = 16 << 20
"""Above any record of the source topic, so that a bad one of any size fits into a dead letter."""

_COMMITTED, _UNCOMMITTED, _LATEST = 1, 0, -1
"""Isolation levels and a timestamp, as ListOffsets has them."""
_SETTLED_S: Final = 2.0
"""So long after a former owner's end is marked in every log, the readers' end may take to show it."""
_ASK_AGAIN_S: Final = 0.05


def producer(settings: Settings, partition: int) -> AIOKafkaProducer:
    """For one source partition, not started yet.

    Its transactional id is the application and the partition: starting it aborts what a former owner left open and
    fences that owner off (KIP-98).
    """
    worker = settings.worker
    return AIOKafkaProducer(
        **clients.aiokafka(settings.kafka),
        acks="all",
        enable_idempotence=True,
        transactional_id=f"{worker.application_id}-{partition}",
        transaction_timeout_ms=int(worker.transaction_timeout_s * 1000 * 2),  # ours strikes first
        request_timeout_ms=int(worker.request_timeout_s * 1000),
        max_batch_size=MAX_RECORD_BATCH_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
        compression_type="lz4",
        linger_ms=0,
    )


async def open_(sender: AIOKafkaProducer, *, changelog: str, outputs: Sequence[str], partition: int) -> int | None:
    """Start the producer: from now on a former owner is fenced off, and nothing that it began is left open.

    Starting ends a former owner's transaction; Kafka answers when the end is marked in every log. Not always: Kafka 4.3
    leaves out the marks, and says the transaction is complete, where it knows no leader of a partition at that moment
    (the only node of a cluster was stopped during a commit: KIP-664 calls what remains a hanging transaction). Readers
    of committed records wait there for ever, and our next commit would make the stray records visible as its own. So
    what the changelog shows to be left open is taken back by a transaction of ours that is aborted; its events will be
    done again. Answers the changelog offset from which on that is; usually `None`. Bounded by the caller.
    """
    await sender.start()
    stray = await _left_open(sender, TopicPartition(changelog, partition))
    if stray is not None:
        await sender.begin_transaction()
        _add(sender, [changelog, *outputs], partition)
        await sender.abort_transaction()
    return stray


async def settle(
    sender: AIOKafkaProducer, *, outputs: Sequence[str], partition: int, done: int, place: Place, reader: Reader
) -> None:
    """End what a commit without marks left open in the output topics, now that it is known how far events are done.

    `open_` looks at the changelog only, in which every transaction takes part. When the next one marks the end of both
    there, what the first wrote to other topics, such as a dead letter, stays open nevertheless, and our next commit to
    them would show it. `done` is the last source offset whose transaction counts: what is beyond is taken back, what
    is not becomes visible at once. `place` tells a record's source offset, `None` for one that is not of this
    partition's events; `reader` makes a consumer that sees uncommitted records. Before the partition's first
    transaction; bounded by the caller.
    """
    tps = [TopicPartition(topic, partition) for topic in outputs]
    strays = await asyncio.gather(*(_left_open(sender, tp) for tp in tps))
    for tp, stray in zip(tps, strays, strict=True):
        if stray is None:
            continue
        try:
            end = await _end(sender, tp, _UNCOMMITTED)
            places = [at for at in map(place, await _read(reader(), tp, stray, end)) if at is not None]
        except TopicAuthorizationFailedError as error:
            raise Fatal(
                f"Kafka lost the marks of a commit, and what it left open in {tp.topic} cannot be told from what "
                f"counts, since this worker may not read the topic; grant it READ on {tp.topic}"
            ) from error
        undone = bool(places) and min(places) > done
        log.error("hanging transaction ended", topic=tp.topic, partition=partition, offset=stray, aborted=undone)
        await sender.begin_transaction()
        _add(sender, [tp.topic], partition)
        await (sender.abort_transaction() if undone else sender.commit_transaction())


async def _read(reader: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int) -> list[Headers]:
    """The headers of the records from `start` on and before `end`, committed or not."""
    found: list[Headers] = []
    await reader.start()
    try:
        reader.assign([tp])
        reader.seek(tp, start)
        while await reader.position(tp) < end:
            for records in (await reader.getmany(tp, timeout_ms=1000)).values():
                found += [list(record.headers) for record in records if record.offset < end]
    finally:
        await reader.stop()
    return found


def reader(settings: Settings) -> AIOKafkaConsumer:
    """For `settle`, not started yet."""
    return AIOKafkaConsumer(
        **clients.aiokafka(settings.kafka),
        isolation_level="read_uncommitted",
        enable_auto_commit=False,
        request_timeout_ms=int(settings.worker.request_timeout_s * 1000),
    )


async def _left_open(sender: AIOKafkaProducer, tp: TopicPartition) -> int | None:
    """The first offset that is neither committed nor aborted, though nobody is left who could end it."""
    await sender.partitions_for(tp.topic)  # else no leader is known
    since = None
    while True:
        try:
            stable, end = [await _end(sender, tp, isolation) for isolation in (_COMMITTED, _UNCOMMITTED)]
        except KafkaError as error:
            if not error.retriable:
                raise
            await sender.client.force_metadata_update()
        else:
            if stable >= end:
                return None
            since = since or time.monotonic()
            if time.monotonic() - since > _SETTLED_S:
                return stable
        await asyncio.sleep(_ASK_AGAIN_S)


async def _end(sender: AIOKafkaProducer, tp: TopicPartition, isolation: int) -> int:
    """Behind the last record that such a reader gets."""
    leader = sender.client.cluster.leader_for_partition(tp)
    if leader in {None, -1}:
        raise LeaderNotAvailableError(tp)
    request = OffsetRequest(-1, isolation, [(tp.topic, [(tp.partition, _LATEST)])])
    ((_, ((_, error, _, offset),)),) = (await sender.client.send(leader, request)).topics
    if error:
        raise for_code(error)(tp)
    end: int = offset
    return end


def _add(sender: AIOKafkaProducer, topics: Iterable[str], partition: int) -> None:
    """To the transaction, all in one request: as their records come, it would be one after the other."""
    for topic in topics:
        sender._txn_manager.maybe_add_partition_to_txn(TopicPartition(topic, partition))  # noqa: SLF001


async def commit(
    sender: AIOKafkaProducer, records: Mapping[str, Sequence[OutRecord]], *, partition: int
) -> dict[str, int]:
    """All records, by topic, into this partition of each topic, visible together; the last offset in each topic.

    Never gives up by itself: the caller bounds it. Whatever is raised, nothing is visible; the producer is then of no
    further use.
    """
    await sender.begin_transaction()
    _add(sender, filter(records.get, records), partition)
    sent = {topic: await _send(sender, topic, partition, some) for topic, some in records.items()}
    ends: dict[str, int] = {}
    for topic, batches in sent.items():
        for acknowledged, count in batches:
            # `send_batch` acknowledges the *base* offset of a record batch
            try:
                base = (await acknowledged).offset
            except KafkaError as error:
                cause = error.__cause__ or error  # the sender's end is told with its reason
                raise Fatal(f"{topic} did not take a batch of {count} records: {cause!r}") from error
            ends[topic] = max(ends.get(topic, -1), base + count - 1)
    await sender.commit_transaction()
    return ends


async def _send(
    sender: AIOKafkaProducer, topic: str, partition: int, records: Sequence[OutRecord]
) -> list[tuple[Awaitable[Any], int]]:
    """Records, all of this moment, in as few record batches as fit: (acknowledgement, number of records) each."""
    sent: list[tuple[Awaitable[Any], int]] = []
    sent_ms = now_ms()

    async def send(batch: Any, count: int) -> None:
        batch._relative_offset = count  # noqa: SLF001
        batch.close()
        sent.append((await sender.send_batch(batch, topic, partition=partition), count))

    batch = append = None
    count = 0
    for record in records:
        fields = sent_ms, record.key, record.value, record.headers
        if append is None or append(count, *fields) is None:
            if append is not None:
                await send(batch, count)
            batch, count = sender.create_batch(), 0
            append = batch._builder.append  # noqa: SLF001 - without the batch's own serializers: 1 µs a record less
            if append(count, *fields) is None:
                raise Fatal(f"a record of {len(record.value or b'')} bytes does not fit into a request to {topic}")
        count += 1
    if append is not None:
        await send(batch, count)
    return sent
