"""The events topic is not what it was: made anew, or deleted in part before it was read."""

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.integration.conftest import Deploy
from tests.integration.deployment import Worker, publish, read_all, until
from tests.integration.stories import event
from worker.kafka import topics

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

START_MS = 1_760_000_000_000


def send(worker: Worker, first: int, end: int) -> None:
    """Events of one user, and so of one partition."""
    settings = worker.settings
    story = (event("ann", number, START_MS + number) for number in range(first, end))
    publish(settings.kafka.bootstrap_servers, settings.topics.events, story)


def scored(worker: Worker) -> int:
    return len(read_all(worker.settings.kafka.bootstrap_servers, worker.settings.topics.scores))


def test_a_topic_made_anew_is_refused_and_not_skipped(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    send(worker, 0, 50)
    worker.start()
    until(lambda: scored(worker) == 50, worker, "the events are done")
    assert worker.stop() == 0
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for done in admin.delete_topics([settings.topics.events]).values():
        done.result(10)
    until(lambda: topics.create(settings)[settings.topics.events], worker, "the topic is made anew")
    send(worker, 50, 60)
    worker.start(wait=False)
    assert worker.process is not None
    assert worker.process.wait(60) == 1
    said = worker.said()
    assert f"{settings.topics.events} ends at offset 10 in partition" in said
    assert "of which 50 are done: the topic was created anew" in said
    assert scored(worker) == 50


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
    assert "events were deleted before they were read" in worker.said()
    assert worker.stop() == 0
