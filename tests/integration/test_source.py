"""The events topic is not what it was: made anew, or deleted in part before it was read."""

import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.chaos import changelog
from tests.conftest import MakeSettings
from tests.integration.conftest import Deploy
from tests.integration.deployment import DIGEST, ROOT, Read, Worker, publish, read_all, until
from tests.integration.stories import event
from worker.kafka import topics
from worker.ports import free_port

pytestmark = pytest.mark.broker

START_MS = 1_760_000_000_000


def send(worker: Worker, first: int, end: int) -> None:
    """Events of one user, and so of one partition."""
    settings = worker.settings
    story = (event("ann", number, START_MS + number) for number in range(first, end))
    publish(settings.kafka.bootstrap_servers, settings.topics.events, story)


def scored(worker: Worker) -> int:
    return len(read_all(worker.settings.kafka.bootstrap_servers, worker.settings.topics.scores))


def all_written(worker: Worker) -> list[list[Read]]:
    """Committed or not."""
    settings = worker.settings
    servers = settings.kafka.bootstrap_servers
    written = (settings.changelog, *settings.topics.outputs)
    return [read_all(servers, topic, isolation="read_uncommitted") for topic in written]


def refused(worker: Worker) -> str:
    """What it says when it starts and ends."""
    worker.start(wait=False)
    assert worker.await_end() == 1
    return worker.log.read_text()


def mark_as_a_former_version(worker: Worker, *, done: int) -> None:
    """The watermark of the partition that `send` has written to."""
    settings = worker.settings
    servers = settings.kafka.bootstrap_servers
    (partition,) = {record.partition for record in read_all(servers, settings.topics.events)}
    producer = Producer({"bootstrap.servers": servers})
    mark = struct.pack("<Bqq", 1, done, START_MS)
    producer.produce(settings.changelog, mark, changelog.WATERMARK, partition=partition)
    assert producer.flush(30) == 0


def newest_mark(worker: Worker) -> bytes:
    settings = worker.settings
    (mark,) = (
        table[changelog.WATERMARK]
        for table in changelog.newest(read_all(settings.kafka.bootstrap_servers, settings.changelog)).values()
    )
    assert mark is not None
    return mark


@pytest.mark.parametrize("anew", [10, 60], ids=["shorter", "longer"])
def test_a_topic_made_anew_is_refused_and_not_skipped(deploy: Deploy, anew: int) -> None:
    worker = deploy()
    settings = worker.settings
    send(worker, 0, 50)
    worker.start()
    until(lambda: scored(worker) == 50, worker, "the events are done")
    assert worker.stop() == 0
    former = topics.events_id(settings)
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for done in admin.delete_topics([settings.topics.events]).values():
        done.result(10)
    nobody = Worker(settings, worker.log)
    until(lambda: topics.create(settings)[settings.topics.events], nobody, "the topic is made anew")
    until(lambda: topics.events_id(settings) != former, nobody, "the broker knows of it, and takes no more for the old")
    send(worker, 50, 50 + anew)
    before = all_written(worker)
    said = refused(worker)
    assert f"{settings.topics.events} has the id {topics.events_id(settings)}, and what is done, up to offset" in said
    assert f"are events of a topic with the id {former}: it was created anew" in said
    assert all_written(worker) == before
    assert scored(worker) == 50


def test_a_topic_that_ends_before_what_is_done_of_it_is_refused(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    send(worker, 0, 10)
    mark_as_a_former_version(worker, done=49)
    before = all_written(worker)
    said = refused(worker)
    assert f"{settings.topics.events} ends at offset 10 in partition" in said
    assert "of which 50 are done: the topic has lost records, or was created anew" in said
    assert all_written(worker) == before


@pytest.mark.usefixtures("terminal")
def test_a_watermark_without_a_topic_is_taken_for_that_of_the_topic_there(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    send(worker, 0, 30)
    mark_as_a_former_version(worker, done=9)
    worker.start()
    until(lambda: scored(worker) == 20, worker, "what is behind the watermark is done")
    assert worker.stop() == 0
    assert changelog.watermark(newest_mark(worker))[0] == 29
    assert changelog.source_id(newest_mark(worker)) == topics.events_id(settings)
    send(worker, 30, 40)
    worker.start()
    until(lambda: scored(worker) == 30, worker, "it goes on in the same topic")
    assert worker.stop(signal.SIGHUP) == 0, "a closed terminal ends it in order, too"


def test_events_that_were_deleted_unread_are_counted_and_the_rest_is_done(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    servers, topic = settings.kafka.bootstrap_servers, settings.topics.events
    send(worker, 0, 50)
    worker.start()
    until(lambda: scored(worker) == 50, worker, "the first events are done")
    assert worker.stop() == 0
    send(worker, 50, 80)
    (partition,) = {record.partition for record in read_all(servers, topic)}
    admin = AdminClient({"bootstrap.servers": servers})
    for done in admin.delete_records([TopicPartition(topic, partition, 70)]).values():
        done.result(10)
    worker.start()
    until(lambda: scored(worker) == 60, worker, "what is left is done")
    assert sum(worker.metric("intent_lost_offsets_total").values()) == 20
    assert "events were deleted before they were read" in worker.log.read_text()
    assert worker.stop() == 0


@pytest.fixture
def quick(settings: MakeSettings, tmp_path: Path) -> Iterator[Worker]:
    """One whose starts take a second."""
    own = settings(topics={"partitions": 1}, worker={"instance_id": "only", "web_port": free_port()})
    worker = Worker(own, tmp_path / "worker.log", command=DIGEST, environment={"PYTHONPATH": str(ROOT)})
    yield worker
    worker.close()


def test_events_of_which_none_is_left_are_told_before_another_comes_and_once(quick: Worker) -> None:
    settings = quick.settings
    servers, topic = settings.kafka.bootstrap_servers, settings.topics.events

    def lost() -> float:
        return sum(quick.metric("intent_lost_offsets_total").values())

    send(quick, 0, 10)
    quick.start()
    until(lambda: scored(quick) == 10, quick, "the first events are done")
    assert quick.stop() == 0
    send(quick, 10, 30)
    admin = AdminClient({"bootstrap.servers": servers})
    for done in admin.delete_records([TopicPartition(topic, 0, 30)]).values():
        done.result(10)
    quick.start()
    until(lambda: lost() == 20, quick, "what is gone is told")
    send(quick, 30, 40)
    until(lambda: scored(quick) == 20, quick, "what comes then is done")
    assert lost() == 20
    assert len(quick.told("events were deleted before they were read")) == 1


def test_a_topic_that_is_deleted_under_a_worker_ends_it(quick: Worker) -> None:
    """The offsets of its group are of a topic that is gone: while they were committed again and again the rebalance did
    not go on, for ever.
    """
    kafka, topic = quick.settings.kafka, quick.settings.topics.events
    send(quick, 0, 10)
    quick.start()
    until(lambda: scored(quick) == 10, quick, "the events are done")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for done in admin.delete_topics([topic]).values():
        done.result(10)
    assert quick.await_end() == 1
    assert f"the brokers do not list {topic}" in quick.log.read_text()
