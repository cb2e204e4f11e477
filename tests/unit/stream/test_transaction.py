"""What aiokafka's producer does when a topic is refused in the middle of a transaction."""

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.structs import TopicPartition

from worker.stream import transaction as _  # noqa: F401 - sets how an error is met

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
