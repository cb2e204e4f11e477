"""Readers of a topic that follow it through every fault, and what each of their polls gave."""

import threading
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tests.chaos.history import Entry, Poll
from tests.integration.deployment import Read

_POLL_S: Final = 0.05
_SILENT_S: Final = 5.0
_HARMLESS: Final = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}
"""What a client says while brokers are away or change roles; it goes on by itself."""


class Follower:
    """Reads all partitions of one topic from the beginning, on a thread of its own, until `close`.

    `identify` names a record's value in the history. `heard` is called with each record and the time it came.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        name: str,
        isolation: str,
        partitions: int,
        identify: Callable[[Read], str],
        heard: Callable[[Read, float], None] = lambda _, __: None,
        incarnation: int = 0,
    ) -> None:
        self.name = name
        self.polls: list[Poll] = []
        self.errors: list[str] = []
        self.furthest = [-1] * partitions
        """The last offset of each partition that has come."""
        self._label = [f"{number}" + "'" * incarnation for number in range(partitions)]
        self._identify = identify
        self._heard = heard
        self._ended = threading.Event()
        self._settings = {
            "bootstrap.servers": servers,
            "group.id": "follower",
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
            "socket.timeout.ms": 5000,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
        }
        self._topic = topic
        self._begin()
        self._thread = threading.Thread(target=self._follow, name=f"follower {name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Idempotent."""
        self._ended.set()
        self._thread.join()

    def _begin(self) -> None:
        """Go on behind what has come, with a client that has no past.

        Again whenever nothing comes: where a broker goes away at the wrong moment, librdkafka may wait for ever for the
        answer to its question whether its position is still valid (confluentinc/librdkafka#4492 saw the same), also
        behind a new assignment, while any other reader gets on.
        """
        self._consumer = Consumer(self._settings)
        self._consumer.assign(
            [TopicPartition(self._topic, number, last + 1) for number, last in enumerate(self.furthest)]
        )
        self._heard_s = time.monotonic()

    def _follow(self) -> None:
        while not self._ended.is_set():
            try:
                messages = self._consumer.consume(2000, timeout=_POLL_S)
            except KafkaException as failure:
                self.errors.append(str(failure))
                continue
            now_s = time.monotonic()
            entries = []
            for message in messages:
                error = message.error()
                if error is None:
                    record = read(message)
                    entries.append(Entry(self._label[record.partition], record.offset, self._identify(record)))
                    self.furthest[record.partition] = record.offset
                    self._heard(record, now_s)
                elif error.code() not in _HARMLESS:
                    self.errors.append(str(error))
            if entries:
                self._heard_s = now_s
                self.polls.append(Poll(self.name, tuple(entries)))
            elif now_s - self._heard_s > _SILENT_S:
                self._consumer.close()
                self._begin()
        self._consumer.close()


def read(message: Message) -> Read:
    """As the rest of the tests know a record."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    headers = {name: value for name, value in dict(message.headers() or []).items() if isinstance(value, bytes)}
    return Read(partition, offset, message.key(), message.value(), headers, message.timestamp()[1])
