"""What is made of records on their way to aiokafka's producer, and what that does when a topic is refused."""

import asyncio
import gc
from typing import Any

import pytest
from aiokafka.errors import InvalidTimestampError, TopicAuthorizationFailedError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from worker.clock import now_ms
from worker.stream import transaction
from worker.stream.output import OutRecord

CHANGELOG, SCORES = TopicPartition("changelog", 0), TopicPartition("scores", 0)


async def test_a_refused_topic_ends_the_sender_before_anything_that_is_not_in_the_transaction_is_sent() -> None:
    """What waits to be added stays held back: a broker might take it, and commit it with the last markers."""
    manager = TransactionManager("application-0", 1000)
    manager.set_pid_and_epoch(1, 0)
    manager.begin_transaction()
    for topic in (CHANGELOG, SCORES):
        manager.maybe_add_partition_to_txn(topic)
    with pytest.raises(TopicAuthorizationFailedError):  # out of the sender's loop, which ends by it
        manager.error_transaction(TopicAuthorizationFailedError({"scores"}))
    assert manager.partitions_to_add() == {CHANGELOG, SCORES}


async def test_sequence_numbers_go_on_at_0_as_kafka_s_do() -> None:
    manager, tp = TransactionManager("t", 1000), TopicPartition("scores", 0)
    manager.increment_sequence_number(tp, (1 << 31) - 3)
    manager.increment_sequence_number(tp, 5)
    assert manager.sequence_number(tp) == 2


class Sender:
    """Keeps what a producer would send."""

    def __init__(self, batch_bytes: int) -> None:
        self.batch_bytes = batch_bytes
        self.sent: list[tuple[str, int, bytes]] = []

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.batch_bytes, 0, is_transactional=1)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        self.sent.append((topic, partition, bytes(batch._build())))
        return asyncio.get_running_loop().create_future()


class Refusing(Sender):
    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        await super().send_batch(batch, topic, partition=partition)
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(InvalidTimestampError())
        return refused


async def test_of_several_batches_that_are_refused_none_is_told_as_unheard() -> None:
    """The first one is raised; asyncio would log each other one, with a traceback."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    sender: Any = Refusing(batch_bytes=2_000)
    sent = await transaction._send(sender, "scores", 0, [OutRecord(b"ann", bytes(100), [])] * 60)
    assert len(sent) > 1
    with pytest.raises(InvalidTimestampError):
        await sent[0][0]
    await asyncio.sleep(0)
    del sent
    gc.collect()
    assert unheard == []


async def test_records_are_of_the_moment_in_which_they_are_sent_in_as_many_batches_as_it_takes() -> None:
    """Whatever their events' time: retention counts from here."""
    sender: Any = Sender(batch_bytes=2_000)
    records = [OutRecord(b"ann", b"%d" % number * 100, [("n", b"1")]) for number in range(30)]
    before = now_ms()
    counts = [count for _, count in await transaction._send(sender, "dead", 3, records)]
    read = []
    for (topic, partition, built), count in zip(sender.sent, counts, strict=True):
        assert (topic, partition) == ("dead", 3)
        batch = MemoryRecords(built).next_batch()
        assert batch is not None
        found = list(batch)
        assert len(found) == count
        read += found
    assert len(counts) > 1
    assert [(one.key, one.value, list(one.headers)) for one in read] == [(r.key, r.value, r.headers) for r in records]
    assert all(before <= one.timestamp <= now_ms() for one in read)
