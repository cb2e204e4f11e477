"""The bare loop under open-loop load: what a reader waits where nothing but confluent-kafka stands in between.

`python -m loadtest.contenders.live light|full [exactly-once]` takes the settings of `intent worker` and runs until it
is ended. It takes what has come, computes it, and waits until the outputs are acknowledged; exactly once: in one
transaction for all partitions, with the windows in the changelog and the offsets in it (KIP-447). Its state is a
dictionary, and it recovers nothing: what it does is the least that such a job takes.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from prometheus_client import start_http_server

from loadtest.contenders.jobs import steps
from loadtest.contenders.task import Job
from worker import config
from worker.errors import IntentError
from worker.kafka import clients
from worker.settings import Settings

EXACTLY_ONCE: Final = "exactly-once"
_AT_ONCE: Final = 10_000
_TIMEOUT_S: Final = 30.0

Output = tuple[str, bytes, bytes, int, Any]
"""Topic, key, value, partition, headers."""


def run(settings: Settings, job: Job, *, exactly_once: bool) -> NoReturn:
    """Serve every partition of the topic, alone. Raises `IntentError` where an output is refused."""
    group = settings.worker.application_id
    connect = clients.librdkafka(settings.kafka)
    consumer = Consumer(
        {
            **connect,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        }
    )
    once = {"transactional.id": group} if exactly_once else {}
    producer = Producer({**connect, "enable.idempotence": True, "linger.ms": 0, **once})
    if exactly_once:
        producer.init_transactions(_TIMEOUT_S)
    consumer.assign([TopicPartition(settings.topics.events, number, 0) for number in range(settings.topics.partitions)])
    outputs = _Outputs(settings, job, changelog=exactly_once)
    start_http_server(settings.worker.web_port, settings.worker.web_host)  # ready: it answers whatever is asked
    failed: list[str] = []

    def delivered(error: object, _: Message) -> None:
        if error is not None:
            failed.append(str(error))

    while True:
        first = consumer.poll(1.0)
        if first is None:
            continue
        messages = [first, *consumer.consume(_AT_ONCE, 0)]
        if exactly_once:
            producer.begin_transaction()
        for topic, key, value, partition, headers in outputs.of(messages):
            producer.produce(topic, value, key, partition, headers=headers, on_delivery=delivered)
        if exactly_once:
            behind = consumer.position(consumer.assignment())
            producer.send_offsets_to_transaction(behind, consumer.consumer_group_metadata(), _TIMEOUT_S)
            producer.commit_transaction(_TIMEOUT_S)
        else:
            producer.flush(_TIMEOUT_S)
        if failed:
            raise IntentError(f"an output was refused: {failed[0]}")


class _Outputs:
    """The job, over windows in memory."""

    def __init__(self, settings: Settings, job: Job, *, changelog: bool) -> None:
        self._topics = settings.topics
        self._latest = job == "full"
        self._changelog = settings.changelog if changelog else None
        self._step = steps(job, topic=settings.topics.events, application=settings.worker.application_id)
        self._windows: dict[bytes, bytes] = {}

    def of(self, messages: list[Message]) -> Iterator[Output]:
        """Everything that these records make readable: the newest window and score of a user once."""
        changed: dict[bytes, Output] = {}
        latest: dict[bytes, Output] = {}
        for message in messages:
            if (error := message.error()) is not None:
                raise IntentError(f"the events cannot be read: {error.str()}")
            key, value, partition, offset = message.key(), message.value(), message.partition(), message.offset()
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            assert partition is not None
            assert offset is not None
            before, time_ms = self._windows.get(key), message.timestamp()[1]
            after, score, headers, dead = self._step(
                before, value, key=key, partition=partition, offset=offset, timestamp_ms=time_ms
            )
            if after is not None:
                self._windows[key] = after
                if self._changelog is not None:
                    changed[key] = self._changelog, key, after, partition, None
            if score is not None:
                yield self._topics.scores, key, score, partition, headers
                if self._latest:
                    latest[key] = self._topics.latest, key, score, partition, headers
            elif dead is not None:
                yield self._topics.dead_letters, key, value, partition, dead
        yield from changed.values()
        yield from latest.values()


def main() -> NoReturn:
    """Of the command line; the settings come from the environment."""
    job, *once = sys.argv[1:]
    assert job in {"light", "full"}
    run(config.load(), "light" if job == "light" else "full", exactly_once=once == [EXACTLY_ONCE])


if __name__ == "__main__":
    main()
