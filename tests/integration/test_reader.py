"""What the tests read topics with sees all that was committed before it was asked."""

import threading
import time

import pytest
from confluent_kafka import Producer

from tests.conftest import MakeSettings
from tests.integration.deployment import Topic

pytestmark = pytest.mark.broker


def test_records_that_may_be_read_a_moment_later_are_waited_for(kafka: str, settings: MakeSettings) -> None:
    """As behind a commit that was acknowledged, whose markers are still on their way."""
    topic = settings().topics.scores
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"there", partition=0)
    assert producer.flush(30) == 0
    reader = Topic(kafka, topic)
    reading = threading.Thread(target=reader.drain)
    reading.start()
    while reader._ends.keys() != reader._partitions:  # it has come to the end of what it may read
        time.sleep(0.01)
    producer.commit_transaction(30)
    reading.join()
    assert [record.value for record in reader.records] == [b"there"]
    reader.close()
