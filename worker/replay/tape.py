"""One stretch of one partition, read record by record. Owns how a replay's end is found; knows nothing of scores."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from operator import methodcaller
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from worker.errors import IntentError
from worker.fold import BATCH_BYTES, sizes
from worker.kafka import clients
from worker.replay.plan import Stretch, silent
from worker.scores import Headers
from worker.settings import Kafka

POLL_S: Final = 0.1
"""How long a fetch may wait to become full: the most that the last, partial one costs."""
SILENCE_S: Final = 60.0
"""A broker that sends nothing for so long, not even the end of the partition, is not going to."""


def reader(kafka: Kafka, trouble: clients.Trouble | None = None) -> Consumer:
    """A consumer that leaves no trace: assigned by hand, in no group, committing nothing. It reads committed records.

    Connects when first used; the caller closes it. `trouble` may hear from it what keeps it from the brokers. Raises
    `SettingError` for what librdkafka does not accept.
    """
    config = {
        **clients.librdkafka(kafka, trouble),
        "group.id": "intent-replay",  # librdkafka wants a name; without `subscribe` no group comes of it
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,  # the last offsets may be markers: only this tells that they were passed
        "auto.offset.reset": "error",  # records deleted under the replay must not be skipped in silence
        "allow.auto.create.topics": False,
        "queued.max.messages.kbytes": 16 * 1024,
        "fetch.wait.max.ms": 100,
    }
    with clients.accepted():
        return Consumer(config)


class Played(NamedTuple):
    """A source record, in the shape that `worker.pipeline` takes."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Tape:
    """Plays a stretch once, in order. `consumer` is this tape's alone while it plays; its assignment is replaced."""

    def __init__(self, consumer: Consumer, topic: str, stretch: Stretch, *, max_records: int = 2000) -> None:
        self._consumer = consumer
        self._topic = topic
        self._stretch = stretch
        self._max_records = max_records
        self._ahead: deque[Message] = deque()
        """As librdkafka holds them: of a record's headers Python makes thirty times what they are there."""
        self._over = stretch.offsets == 0
        self._silent_s = 0.0
        self.name = f"partition {stretch.partition} of {topic}"
        consumer.assign([TopicPartition(topic, stretch.partition, stretch.warm_from)])

    async def read(self, *, before: int) -> Sequence[Played]:
        """The next records with offsets below `before`, at most `max_records` or `BATCH_BYTES`; empty when there are no
        more.

        Raises `IntentError` when the broker falls silent or refuses.
        """
        while not self._ahead and not self._over:
            await asyncio.to_thread(self._fetch)
        taken: list[Played] = []
        room = BATCH_BYTES
        while self._ahead and (self._ahead[0].offset() or 0) < before:
            played = _played(self._ahead[0])
            room -= sum(sizes([played]))
            if taken and room < 0:
                break
            self._ahead.popleft()
            taken.append(played)
        return taken

    def __iter__(self) -> Iterator[Played]:
        """All records, blocking; errors as `read`."""
        while self._ahead or not self._over:
            while self._ahead:
                yield _played(self._ahead.popleft())
            if not self._over:
                self._fetch()

    def _fetch(self) -> None:
        messages = self._consumer.consume(self._max_records, POLL_S)
        end = self._stretch.end
        for message in messages:
            if self._over:  # what follows the end may be a batch that cannot be read
                break
            offset = message.offset() or 0
            if (error := message.error()) is None:
                if offset < end:
                    self._ahead.append(message)
                # The last offsets may be transaction markers, which are no records: then a record behind the end tells,
                # or the end of the partition.
                self._over |= offset >= end - 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name in librdkafka
                self._over |= offset >= end
            else:
                raise IntentError(f"{self.name} cannot be read on: {error.str()}")
        self._silent_s = 0.0 if messages else self._silent_s + POLL_S
        if self._silent_s > SILENCE_S:
            raise silent(self._consumer, self._topic, f"{self.name} sent nothing for {SILENCE_S:.0f} s")


_headers = methodcaller("headers")
"""From C, where a result that comes with an error is always told from one without. Python itself no longer looks once
it has made the call a few dozen times: it goes on with the broken list, and crashes.
"""


def _played(message: Message) -> Played:
    try:
        headers = _headers(message) or []
    except SystemError:  # confluent-kafka's word for a name that is no UTF-8; no outcome depends on any
        headers = []
    pairs = headers.items() if isinstance(headers, dict) else headers
    parts = [(name, _bytes(part)) for name, part in pairs]
    return Played(message.offset() or 0, message.timestamp()[1], message.key(), message.value(), parts)


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content
