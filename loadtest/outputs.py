"""Whether a run's outputs are all there: counted by a reader of committed records, apart from who wrote them."""

import time
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from worker.errors import IntentError
from worker.kafka import clients
from worker.settings import Kafka

_MARK: Final = b'"score_id":"'
_BATCH: Final = 20_000
_SILENT_S: Final = 20.0
_PAUSE_S: Final = 0.3
"""`consume` waits so long for a whole batch; there is none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Records of the scores' topic, the events they are of, and dead letters."""

    scores: int
    distinct: int
    dead: int

    @property
    def repeated(self) -> int:
        """Scores of an event that has one already."""
        return self.scores - self.distinct


def count(kafka: Kafka, *, scores: str, dead_letters: str, partitions: int) -> Found:
    """Read both topics to their ends. Raises `IntentError` when the broker stops answering."""
    seen: list[set[int]] = [set() for _ in range(partitions)]
    total = 0
    for partition, value in _read(kafka, scores, partitions):
        total += 1
        seen[partition].add(_offset(value))
    dead = sum(1 for _ in _read(kafka, dead_letters, partitions))
    return Found(scores=total, distinct=sum(map(len, seen)), dead=dead)


def _offset(score: bytes) -> int:
    """The source offset: the last part of the score's id."""
    end = score.index(b'"', score.index(_MARK) + len(_MARK))
    return int(score[score.rindex(b"-", 0, end) + 1 : end])


def _read(kafka: Kafka, topic: str, partitions: int) -> list[tuple[int, bytes]]:
    consumer = Consumer(
        {
            **clients.librdkafka(kafka),
            "group.id": "intent-loadtest-outputs",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.max.bytes": 16 << 20,
            "max.partition.fetch.bytes": 4 << 20,
        }
    )
    found: list[tuple[int, bytes]] = []
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        ended, heard_s = 0, time.monotonic()
        while ended < partitions:
            messages = consumer.consume(_BATCH, _PAUSE_S)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > _SILENT_S:
                raise IntentError(f"the topic {topic} cannot be read to its end; look at the broker's log")
            for message in messages:
                if message.error() is not None:  # the end of a partition
                    ended += 1
                    continue
                partition, value = message.partition(), message.value()
                assert partition is not None
                found.append((partition, value if isinstance(value, bytes) else b""))
    finally:
        consumer.close()
    return found
