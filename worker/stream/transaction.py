"""One Kafka transaction of one partition: begin, send, await every acknowledgement, commit, until it is seen. All that
knows how aiokafka's producer sends. Knows nothing of what the records mean.

Private parts of aiokafka 0.14.0 in use: `BatchBuilder._builder`, `BatchBuilder._relative_offset`,
`AIOKafkaProducer._txn_manager`, `record._crecords.default_records.lz4_encode`, `TransactionManager.error_transaction`,
`TransactionManager._sequence_numbers`.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

from aiokafka import AIOKafkaProducer
from aiokafka.codec import lz4_encode
from aiokafka.errors import InvalidTimestampError, KafkaError
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.record._crecords import default_records
from aiokafka.structs import TopicPartition

from worker.clock import now_ms
from worker.errors import Fatal
from worker.kafka import clients
from worker.scores import rfc3339
from worker.settings import Settings
from worker.stream import marks
from worker.stream.output import OutRecord

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

SURE_S: Final = 1.0
"""So soon after its commit nobody can have aborted a transaction: a successor waits for longer (`hanging`)."""

MAX_RECORD_BATCH_BYTES: Final = 512 << 10
MAX_REQUEST_BYTES: Final = 16 << 20
"""Above any record of the source topic, so that a bad one of any size fits into a dead letter."""


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


def add(sender: AIOKafkaProducer, topics: Iterable[str], partition: int) -> None:
    """To the transaction, all in one request: as their records come, it would be one after the other."""
    for topic in topics:
        sender._txn_manager.maybe_add_partition_to_txn(TopicPartition(topic, partition))  # noqa: SLF001


async def commit(
    sender: AIOKafkaProducer, records: Mapping[str, Sequence[OutRecord]], *, partition: int
) -> dict[str, int]:
    """All records, by topic, into this partition of each topic; the last offset in each topic.

    Returns when readers of committed records see them (`marks.seen`). Never gives up by itself: the caller bounds it.
    Whatever is raised, all or nothing will be seen; the producer is then of no further use.
    """
    await sender.begin_transaction()
    add(sender, filter(records.get, records), partition)
    sent = {topic: await _send(sender, topic, partition, some) for topic, some in records.items()}
    ends: dict[str, int] = {}
    for topic, batches in sent.items():
        for acknowledged, count in batches:
            # `send_batch` acknowledges the *base* offset of a record batch
            try:
                base = (await acknowledged).offset
            except InvalidTimestampError:
                raise Fatal(
                    f"{topic} refuses records of {rfc3339(now_ms())}, which is now by this machine's clock and too far "
                    "from the brokers': set the clock, or alter the topics that `intent topics check` names to "
                    "message.timestamp.type=LogAppendTime"
                ) from None
            except KafkaError as error:
                cause = error.__cause__ or error  # the sender's end is told with its reason
                raise Fatal(f"{topic} did not take a batch of {count} records: {cause!r}") from error
            ends[topic] = max(ends.get(topic, -1), base + count - 1)
    begin = time.monotonic()
    await sender.commit_transaction()
    await marks.seen(sender, {TopicPartition(topic, partition): end for topic, end in ends.items()})
    if time.monotonic() - begin > SURE_S:
        # A successor that found it without marks may have aborted it. One that exists has fenced this producer off.
        await renew(sender, ends, partition=partition)
    return ends


async def renew(sender: AIOKafkaProducer, topics: Iterable[str], *, partition: int) -> None:
    """A transaction without a record: raises where the partition has another owner, else Kafka knows that it has this
    one. Bounded by the caller.
    """
    await sender.begin_transaction()
    add(sender, topics, partition)
    await sender.commit_transaction()


def _hear(acknowledged: asyncio.Future[Any]) -> None:
    """Of several batches that fail the first one is raised; of the others asyncio would say that nobody listened."""
    if not acknowledged.cancelled():
        acknowledged.exception()


async def _send(
    sender: AIOKafkaProducer, topic: str, partition: int, records: Sequence[OutRecord]
) -> list[tuple[Awaitable[Any], int]]:
    """Records, all of this moment, in as few record batches as fit: (acknowledgement, number of records) each."""
    sent: list[tuple[Awaitable[Any], int]] = []
    sent_ms = now_ms()

    async def send(batch: Any, count: int) -> None:
        batch._relative_offset = count  # noqa: SLF001
        batch.close()
        acknowledged = await sender.send_batch(batch, topic, partition=partition)
        acknowledged.add_done_callback(_hear)
        sent.append((acknowledged, count))

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
