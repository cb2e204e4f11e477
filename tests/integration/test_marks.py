"""When a commit is seen by readers, as brokers tell it: behind its own marks, whatever others leave open beside it."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerFenced
from aiokafka.structs import TopicPartition

from tests.conftest import MakeSettings
from worker.settings import Settings
from worker.stream import marks, transaction
from worker.stream.output import OutRecord

pytestmark = pytest.mark.broker

_LONG_S = 1.0
"""Marks take milliseconds."""


@pytest.fixture
def own(settings: MakeSettings) -> Settings:
    return settings(topics={"partitions": 2})


@pytest.fixture
async def senders(own: Settings) -> AsyncIterator[list[AIOKafkaProducer]]:
    """Two that write to the same topics."""
    made = [transaction.producer(own, number) for number in range(2)]
    for sender in made:
        await sender.start()
    yield made
    for sender in made:
        await sender.stop()


async def write(sender: AIOKafkaProducer, topic: str) -> dict[TopicPartition, int]:
    """One record, in a transaction that stays open; where it stands."""
    await sender.begin_transaction()
    told = await sender.send_and_wait(topic, b"there", partition=0)
    return {TopicPartition(topic, 0): told.offset}


async def test_a_commit_is_seen_behind_its_own_marks(senders: list[AIOKafkaProducer], own: Settings) -> None:
    sender, _ = senders
    last = await write(sender, own.topics.scores)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(marks.seen(sender, last), _LONG_S)
    seeing = asyncio.create_task(marks.seen(sender, last))
    await sender.commit_transaction()
    await seeing


async def test_what_others_leave_open_holds_nobody_up(senders: list[AIOKafkaProducer], own: Settings) -> None:
    sender, other = senders
    await write(other, own.topics.scores)
    last = await write(sender, own.topics.scores)
    await sender.commit_transaction()
    (stable,) = (await marks.ends(sender, last, marks.COMMITTED)).values()
    (end,) = (await marks.ends(sender, last, marks.UNCOMMITTED)).values()
    assert stable < end, "readers are held up"
    await asyncio.wait_for(marks.seen(sender, last), 10 * _LONG_S)
    await other.abort_transaction()


async def test_where_it_cannot_be_told_whose_marks_are_missing_they_are_waited_for(
    senders: list[AIOKafkaProducer], own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker needs no right to read what it writes."""
    sender, other = senders
    await write(other, own.topics.scores)
    last = await write(sender, own.topics.scores)
    await sender.commit_transaction()
    send = sender.client.send

    async def refused(node: int, request: Any, **options: Any) -> Any:
        if isinstance(request, marks._DescribeProducers):
            return SimpleNamespace(topics=[(own.topics.scores, [(0, 29, "not authorised", [], {})], {})])
        return await send(node, request, **options)

    monkeypatch.setattr(sender.client, "send", refused)
    seeing = asyncio.create_task(marks.seen(sender, last))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(seeing), _LONG_S)
    await other.abort_transaction()
    await seeing


async def test_what_a_successor_aborted_is_not_taken_for_committed(
    senders: list[AIOKafkaProducer], own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes for seen, since readers get past it."""
    sender, _ = senders
    successor = transaction.producer(own, 0)
    commit = sender.commit_transaction

    async def forgotten() -> None:
        """Acknowledged and never marked; its producer stands still until a successor has come."""
        monkeypatch.setattr(sender, "commit_transaction", commit)
        sender._txn_manager.committing_transaction()
        sender._txn_manager.complete_transaction()
        await successor.start()
        await asyncio.sleep(transaction.SURE_S)

    monkeypatch.setattr(sender, "commit_transaction", forgotten)
    records = {own.topics.scores: [OutRecord(b"user", b"score", [])]}
    with pytest.raises(ProducerFenced):
        await transaction.commit(sender, records, partition=0)
    await successor.stop()
