"""The topics on a real broker: created once, and every difference to their declaration named."""

import time
from collections.abc import Mapping

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from tests.conftest import MakeSettings
from tests.integration.deployment import read_all
from worker.errors import Fatal, IntentError
from worker.kafka import clients, topics
from worker.kafka.topics import Difference
from worker.settings import Settings
from worker.stream import transaction
from worker.stream.output import OutRecord

pytestmark = pytest.mark.broker


def alter(settings: Settings, topic: str, config: Mapping[str, str]) -> None:
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    admin = clients.admin(settings.kafka)
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(10)


def settled(settings: Settings, count: int) -> list[Difference]:
    """The differences, once there are as many: the controller knows of a change a moment before the brokers do."""
    deadline = time.monotonic() + 15
    while len(found := topics.check(settings)) < count and time.monotonic() < deadline:
        pass  # each check asks the broker, and takes its time
    return found


def test_created_topics_are_as_declared(settings: MakeSettings) -> None:
    assert topics.check(settings()) == []


def test_what_the_worker_publishes_is_kept_by_the_brokers_clock(settings: MakeSettings) -> None:
    """A worker's may stand at 1970, behind every retention; that of the changelog is compared with the outputs'."""
    made = settings()
    producer = Producer({"bootstrap.servers": made.kafka.bootstrap_servers})
    ours = (*made.topics.outputs, made.topics.shadow, made.changelog)
    for topic in ours:
        producer.produce(topic, b"{}", b"ann", timestamp=1)
    assert producer.flush(10) == 0
    written = [record.timestamp_ms for topic in ours for record in read_all(made.kafka.bootstrap_servers, topic)]
    assert len(written) == len(ours)
    assert min(written) > (time.time() - 600) * 1000


async def test_a_worker_whose_clock_is_far_ahead_is_told_what_to_do(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the topics have the records' own times, as those made by others have."""
    made = settings()
    alter(made, made.topics.scores, {"message.timestamp.type": "CreateTime"})
    assert settled(made, 1)
    monkeypatch.setattr(transaction, "now_ms", lambda: time.time_ns() // 1_000_000 + 7_200_000)
    sender = transaction.producer(made, 0)
    await sender.start()
    try:
        with pytest.raises(Fatal, match=rf"{made.topics.scores} refuses records of .*set the clock, or alter") as told:
            await transaction.commit(sender, {made.topics.scores: [OutRecord(b"ann", b"{}", [])]}, partition=0)
        assert told.value.__cause__ is None
    finally:
        await sender.stop()


def test_a_topic_made_anew_has_another_id(settings: MakeSettings) -> None:
    made = settings()
    first = topics.events_id(made)
    assert len(first) == 22
    assert topics.events_id(made) == first != topics.changelog(made).topic_id
    admin = clients.admin(made.kafka)
    for done in admin.delete_topics([made.topics.events]).values():
        done.result(10)
    deadline = time.monotonic() + 15
    while not topics.create(made)[made.topics.events]:  # its name is free a moment later
        assert time.monotonic() < deadline
    while topics.events_id(made) == first:  # the controller knows of it a moment before the broker does
        assert time.monotonic() < deadline


def test_the_id_of_a_topic_that_does_not_come_is_an_error(settings: MakeSettings) -> None:
    made = settings()
    missing = made.model_copy(
        update={
            "topics": made.topics.model_copy(update={"events": "nowhere"}),
            "worker": made.worker.model_copy(update={"request_timeout_s": 1.0}),
        }
    )
    with pytest.raises(IntentError, match="the topic nowhere is not there; `intent topics create` makes it"):
        topics.events_id(missing)


def test_creating_again_touches_nothing(settings: MakeSettings) -> None:
    made = settings()
    assert set(topics.create(made).values()) == {False}


def test_only_missing_topics_are_created(settings: MakeSettings) -> None:
    made = settings()
    admin = clients.admin(made.kafka)
    admin.delete_topics([made.topics.latest])[made.topics.latest].result(10)
    assert settled(made, 1) == [Difference(made.topics.latest, "topic", "missing", "created")]
    assert [name for name, new in topics.create(made).items() if new] == [made.topics.latest]


def test_each_difference_is_named(settings: MakeSettings) -> None:
    made = settings()
    admin = clients.admin(made.kafka)
    admin.create_partitions([NewPartitions(made.topics.events, 6)])[made.topics.events].result(10)
    alter(made, made.topics.scores, {"retention.ms": "1000", "compression.type": "gzip"})
    alter(made, made.changelog, {"cleanup.policy": "delete"})
    wanted = made.model_copy(update={"topics": made.topics.model_copy(update={"replication_factor": 3})})
    assert settled(made, 4) == [
        Difference(made.topics.events, "partitions", "6", "4"),
        Difference(made.topics.scores, "compression.type", "gzip", "producer"),
        Difference(made.topics.scores, "retention.ms", "1000", "604800000"),
        Difference(made.changelog, "cleanup.policy", "delete", "compact"),
    ]
    assert Difference(made.topics.latest, "replication factor", "1", "3") in topics.check(wanted)


def test_more_replicas_than_brokers_is_one_sentence(settings: MakeSettings) -> None:
    made = settings()
    more = made.topics.model_copy(update={"events": made.topics.events + ".more", "replication_factor": 3})
    with pytest.raises(IntentError, match=rf"topic {more.events} cannot be created: .*replication factor"):
        topics.create(made.model_copy(update={"topics": more}))


def test_brokers_that_do_not_answer_are_one_sentence(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings()
    gone = made.model_copy(update={"kafka": made.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})})
    monkeypatch.setattr(topics, "_TIMEOUT_S", 0.5)
    with pytest.raises(IntentError, match=r"Kafka at 127.0.0.1:1 .* does not answer .* `intent broker start`"):
        topics.check(gone)
