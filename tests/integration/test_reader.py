"""What the tests read topics with sees all that was committed before it was asked."""

import threading
import time
import uuid

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.integration.deployment import read_all

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]


def test_records_that_may_be_read_a_moment_later_are_waited_for(kafka: str) -> None:
    """As behind a commit that was acknowledged, whose markers are still on their way."""
    topic = f"reader-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"there", partition=0)
    assert producer.flush(30) == 0

    def commit() -> None:
        time.sleep(1.0)
        producer.commit_transaction(30)

    committing = threading.Thread(target=commit)
    committing.start()
    try:
        assert [record.value for record in read_all(kafka, topic)] == [b"there"]
    finally:
        committing.join()
