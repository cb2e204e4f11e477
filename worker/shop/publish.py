"""The open-loop publisher: each record goes out at its due time, whether or not earlier ones were acknowledged.

Owns pacing, delivery reports and what they add up to. Knows nothing of what the records say. A publisher that waited
for answers would slow down with the system it loads, and so hide that system's delay; here a slow broker shows as a
growing local queue, then as `delay_ms`: how long after its due time a record left.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer
from hdrh.histogram import HdrHistogram

from worker.errors import IntentError, SettingError
from worker.kafka import clients
from worker.settings import Settings
from worker.shop.outgoing import Outgoing

_SHORTEST_WAIT_S: Final = 0.001  # librdkafka's poll counts whole milliseconds: a shorter wait would spin
_FULL_WAIT_S: Final = 0.05
_ANSWER_S: Final = 10.0
_MAX_DELAY_MS: Final = 3_600_000
_SERVE_EVERY: Final = 1024  # delivery reports wait in memory until they are asked for
_GIVEN_UP_S: Final = 120
"""From when a record is queued. Brokers that hold a client back by a quota let much through at once, and then read
nothing for most of a minute: they take what it has given up by then all the same.
"""
_LATELY_S: Final = 5.0
_FEW: Final = 1000


class Sends(Protocol):
    """The part of `confluent_kafka.Producer` that is used here."""

    def produce(
        self,
        topic: str,
        value: bytes | None = ...,
        key: bytes | None = ...,
        *,
        timestamp: int = ...,
        on_delivery: Callable[[Any, Any], None] | None = ...,
    ) -> None:
        """Queues a record; `BufferError` when the queue is full."""

    def poll(self, timeout: float = ...) -> int:
        """Calls back for answers, waiting up to `timeout` seconds for one."""

    def flush(self, timeout: float = ...) -> int:
        """Waits until all are answered; how many are not."""


def connect(settings: Settings, *, max_queued: int = 100_000) -> Producer:
    """A producer for the events topic: idempotent, bounded, and partitioned as Java clients do.

    Raises `IntentError` when the brokers do not answer, `SettingError` when the topic is not there or may not be seen,
    and for what librdkafka does not accept.
    """
    trouble = clients.Trouble()
    config = {
        **clients.librdkafka(settings.kafka, trouble),
        "partitioner": "murmur2_random",
        **clients.IN_ORDER,
        "linger.ms": 5,
        "compression.type": "lz4",
        "queue.buffering.max.messages": max_queued,
        "message.timeout.ms": _GIVEN_UP_S * 1000,
    }
    with clients.accepted():
        producer = Producer(config)
    topic = settings.topics.events
    try:
        known = producer.list_topics(topic, timeout=_ANSWER_S).topics[topic]
    except KafkaException as error:
        raise trouble.unanswered(producer, settings.kafka, error.args[0].str()) from None
    if known.error is not None:
        if known.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            wrong = "is not there; `intent topics create` makes it"
        else:
            wrong = f"cannot be written: {known.error.str()}"
        raise SettingError(f"the topic {topic} (setting `topics.events`) {wrong}")
    return producer


class Publisher:
    """Sends one stream of records. The counts may be read from another thread while `run` is under way."""

    def __init__(
        self,
        producer: Sends,
        topic: str,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.sent = 0
        self.acked = 0
        self.failed = 0
        self.seconds = 0.0
        self.delay_ms = HdrHistogram(1, _MAX_DELAY_MS, 2)
        self._producer = producer
        self._topic = topic
        self._monotonic_s = monotonic_s
        self._wall_s = wall_s
        self._first_error = ""
        self._pace = _Pace()

    def run(self, records: Iterable[Outgoing], *, stopped: Callable[[], bool] = lambda: False) -> None:
        """Sends until the records end or `stopped`; then `finish` must follow. Blocks; due times in ascending order.
        Raises `IntentError` when the producer can send nothing more.

        A record's timestamp is its scheduled send, so that latency measured from it includes what the schedule slipped.
        """
        start_s = start_ms = None
        for due_s, key, value in records:
            if start_s is None or start_ms is None:  # not before the first record: its source may take long to open
                start_s, start_ms = self._monotonic_s(), self._wall_s() * 1000
            at_s = self._monotonic_s() - start_s
            while due_s is not None and at_s < due_s and not stopped():
                self._poll(min(max(due_s - at_s, _SHORTEST_WAIT_S), 0.5))
                at_s = self._monotonic_s() - start_s
            if stopped():
                break
            if due_s is None:
                self._wait_for_answers()
                at_s = self._monotonic_s() - start_s
            scheduled_s = at_s if due_s is None else due_s
            self._send(key, value, timestamp_ms=int(start_ms + scheduled_s * 1000))
            at_s = self._monotonic_s() - start_s
            if due_s is not None:
                self.delay_ms.record_value(min(int((at_s - due_s) * 1000), _MAX_DELAY_MS))
            self.seconds = at_s
            if self.sent % _SERVE_EVERY == 0:
                self._poll(0)

    def finish(self, *, timeout_s: float = _GIVEN_UP_S + 10.0) -> None:
        """Waits for the outstanding acknowledgements. Raises `IntentError` when a record was not delivered."""
        with clients.of_use(self._topic):
            left = self._producer.flush(timeout_s)
        if left or self.failed:
            reason = self._first_error or f"no answer within {timeout_s:.0f} s"
            raise IntentError(
                f"{self.failed + left} of {self.sent} events were not delivered to {self._topic}: {reason}; "
                "is Kafka running, its disk not full, and no quota too low for so many?"
            )

    def _wait_for_answers(self) -> None:
        """Without a schedule, while more is under way than is answered before it is given up: of a full queue half was,
        by brokers that were well, and slow.

        Not once a record has failed: then the brokers may be away, and each few would wait for their whole time.
        """
        wait_s = 0.0
        while not self.failed and self.sent - self.acked >= self._pace.allowed(self.acked, self._monotonic_s()):
            self._poll(wait_s)
            wait_s = _FULL_WAIT_S

    def _send(self, key: bytes | None, value: bytes | None, *, timestamp_ms: int) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, timestamp=timestamp_ms, on_delivery=self._delivered)
            except BufferError:  # the local queue is bounded; the delay shows that we waited
                self._poll(_FULL_WAIT_S)
            except KafkaException as error:
                self._poll(0)  # knows why, where the producer is of no further use
                raise IntentError(f"{self._topic} takes no events: {error.args[0].str()}") from None
            else:
                self.sent += 1
                return

    def _poll(self, timeout_s: float) -> None:
        with clients.of_use(self._topic):
            self._producer.poll(timeout_s)

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is None:
            self.acked += 1
        else:
            self.failed += 1
            self._first_error = self._first_error or error.str()


class _Pace:
    """How many records may wait for their answers: those of twice the last few seconds, and a few in any case."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._acked = 0
        self._lately = 0

    def allowed(self, acked: int, now_s: float) -> int:
        """`acked` is all that were answered by now."""
        if self._since_s is None or now_s - self._since_s >= _LATELY_S:
            self._lately = acked - self._acked
            self._since_s, self._acked = now_s, acked
        return max(_FEW, 2 * max(self._lately, acked - self._acked))
