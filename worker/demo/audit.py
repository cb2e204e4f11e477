"""Reads the topics from their beginning, as any reader of committed records would, into a `Ledger`.

Owns what a record of each topic looks like from outside. Starts only once the worker is done: it reads up to the ends
that the topics have then.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from worker.demo.ledger import Ledger, Place
from worker.errors import IntentError
from worker.kafka import clients
from worker.settings import Settings

_BATCH: Final = 5000
_SILENCE_S: Final = 30.0
_ERROR: Final = "__connect.errors."


class ScoreSeen(msgspec.Struct):
    """What the demo needs of a score; a reader of its own, not the worker's."""

    score_id: str
    event_id: str
    user_id: str
    intent: dict[str, float]
    reasons: list[dict[str, Any]]
    model: dict[str, str]


read_score: Final = msgspec.json.Decoder(ScoreSeen).decode


def consumer(settings: Settings) -> Consumer:
    """A reader of committed records without a group's commits; assign partitions to it."""
    return Consumer(
        clients.librdkafka(settings.kafka)
        | {
            "group.id": "intent-demo",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
        }
    )


def place_of_score(score: ScoreSeen, topic: str) -> Place:
    """The source place that a score id names. Raises `ValueError` for an id of another form or topic."""
    name, partition, offset = score.score_id.rsplit("-", 2)
    if name != topic:
        raise ValueError(f"the score {score.score_id} does not come from {topic}")
    return int(partition), int(offset)


def fate_of_dead_letter(message: Message) -> tuple[Place, str]:
    """The source place and the reason that a dead letter's headers tell."""
    told = {header[0]: _text(header[1]) for header in message.headers() or ()}
    place = (int(told[_ERROR + "partition"]), int(told[_ERROR + "offset"]))
    return place, told[_ERROR + "exception.class.name"]


def audit(settings: Settings, *, progress: Callable[[int], None] = lambda _: None) -> Ledger:
    """Everything in the events, scores and dead-letter topics. `progress` hears the number of records read so far.

    Blocks, about 5 s a million records. Raises `IntentError` when a topic falls silent before its end.
    """
    ledger, topics, read = Ledger(), settings.topics, 0
    for message in everything(settings, topics.events):
        ledger.source(_number(message.partition()), _number(message.offset()), message.value())
        read += 1
        progress(read)
    for message in everything(settings, topics.scores):
        score = read_score(message.value() or b"")
        ledger.scored(place_of_score(score, topics.events), user_id=score.user_id, event_id=score.event_id)
        read += 1
        progress(read)
    for message in everything(settings, topics.dead_letters):
        ledger.dead(*fate_of_dead_letter(message))
        read += 1
        progress(read)
    return ledger


def everything(settings: Settings, topic: str) -> Iterator[Message]:
    """The topic's committed records up to its present end, each partition in order."""
    reader = consumer(settings)
    try:
        partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
        reader.assign([TopicPartition(topic, number, 0) for number in partitions])
        open_ends = set(partitions)
        heard_s = time.monotonic()
        while open_ends:
            for message in reader.consume(_BATCH, timeout=0.2):
                heard_s = time.monotonic()
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the library's public name for it
                    open_ends.discard(_number(message.partition()))
                elif error.fatal():
                    raise IntentError(f"{topic} cannot be read: {error.str()}")
            if time.monotonic() - heard_s > _SILENCE_S:
                raise IntentError(f"{topic} was silent for {_SILENCE_S:.0f} s before its end; is Kafka still running?")
    finally:
        reader.close()


def _number(value: int | None) -> int:
    assert value is not None, "a consumed record has a place"
    return value


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
