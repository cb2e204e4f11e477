"""The shop's side: a paced producer that goes on whatever breaks, and a record of every acknowledged write."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.chaos.history import Entry, Send
from tests.chaos.story import Outgoing

SEND: Final = "send"
"""Header with a number that no other record of the topic has."""

_TICK_S: Final = 0.01
_GIVE_UP_S: Final = 120


@dataclass(frozen=True, slots=True)
class Sent:
    """An acknowledged write, and when it was issued."""

    send: Send
    at_s: float


class Traffic:
    """Sends `story`, while it lasts, to `topic` at `rate` records a second, on a thread of its own."""

    def __init__(self, servers: str, topic: str, story: Iterator[Outgoing], *, rate: float) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                # A leader that is not one yet may refuse a partition's first batch and take its second, which waits in
                # the same connection: the first then is out of order for ever (librdkafka issue 3584).
                "max.in.flight.requests.per.connection": 1,
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.max.bytes": 64 << 20,  # judged before compression
                "message.timeout.ms": _GIVE_UP_S * 1000,
                "socket.timeout.ms": 5000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._topic = topic
        self._story = story
        self._rate = rate
        self._more: deque[Outgoing] = deque()
        self._ended = threading.Event()
        self._paused = threading.Event()
        self._idle = threading.Event()
        self._number = 0
        self._acknowledged: dict[int, Sent] = {}
        self.failures: list[str] = []
        """Writes that were given up; none is expected, since the producer waits out every fault."""
        self.unplaced = 0
        """Writes that were acknowledged without an offset: they may be there, or not."""
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def sent(self) -> list[Sent]:
        """Acknowledged writes in the order in which they were issued."""
        return [self._acknowledged[number] for number in sorted(self._acknowledged)]

    def inject(self, records: Iterable[Outgoing]) -> None:
        """At once, between the others."""
        self._more.extend(records)

    def pause(self) -> None:
        """Returns when all that was sent is acknowledged."""
        self._paused.set()
        self._idle.clear()  # not before: the thread may be idle for the pause before this one until it looks again
        self._idle.wait(_GIVE_UP_S)

    def resume(self) -> None:
        self._paused.clear()

    def stop(self) -> None:
        """Returns when all that was sent is acknowledged. Idempotent."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._send()
        except KafkaException as error:
            self.failures.append(f"the producer ended: {error}")

    def _send(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            if self._paused.is_set():
                self._producer.flush(_GIVE_UP_S)
                self._idle.set()
                time.sleep(_TICK_S)
                due = time.monotonic()
                continue
            while self._more:
                self._produce(self._more.popleft())
            while due <= time.monotonic():
                if (record := next(self._story, None)) is not None:
                    self._produce(record)
                due += 1 / self._rate
            self._producer.poll(_TICK_S)
        left = self._producer.flush(_GIVE_UP_S)
        if left:
            self.failures.append(f"{left} records were not acknowledged after {_GIVE_UP_S} s")

    def _produce(self, record: Outgoing) -> None:
        number, at_s = self._number, time.monotonic()
        self._number += 1

        def acknowledged(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failures.append(f"send {number}: {error}")
                return
            offset = message.offset()
            if offset is None or offset < 0:
                # librdkafka took "duplicate sequence" for an answer: nobody said that and where the record stands
                self.unplaced += 1
                return
            entry = Entry(str(message.partition()), offset, str(number))
            self._acknowledged[number] = Sent(Send("traffic", entry), at_s)

        headers: dict[str, str | bytes | None] = {**record.headers, SEND: b"%d" % number}
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=headers,
                    on_delivery=acknowledged,
                )
            except BufferError:
                self._producer.poll(_TICK_S)
            else:
                return
