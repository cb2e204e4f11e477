"""A steady stream of events, made on the way: for loads too long to be made beforehand. Open loop.

An event's time is when it was due, so whoever reads its score knows its latency. Knows nothing of scores.
"""

import random
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Final

from confluent_kafka import Producer

from loadtest import apart
from worker.kafka import clients
from worker.settings import Settings

_DRAIN_S: Final = 60.0
_TICK_S: Final = 0.01
_EVENT: Final = (
    b'{"event_id":"%s-%d","user_id":"%s","event_time":%d,"type":"view_item",'
    b'"items":[{"item_id":"sku-%d","item_category":"Home/Apparel","price":12.5}]}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What to send. `name` keeps the events of one stream apart from another's."""

    rate: float
    seconds: float
    users: int
    name: str

    @property
    def count(self) -> int:
        """How many events that is."""
        return round(self.rate * self.seconds)


def send(settings: Settings, stream: Stream) -> None:
    """Open loop, made on the way: a long load is too large to be made beforehand. Ends non-zero when not all arrive."""
    producer = Producer(
        {**clients.librdkafka(settings.kafka), "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
    )
    failed: list[str] = []
    rng = random.Random(1)
    begin_ms = time.time_ns() // 1_000_000
    begin = time.monotonic()
    sent = 0
    while sent < stream.count:
        due = min(stream.count, int((time.monotonic() - begin) * stream.rate) + 1)
        while sent < due:
            user = b"user-%d" % rng.randrange(stream.users)
            value = _EVENT % (stream.name.encode(), sent, user, begin_ms + int(sent * 1000 / stream.rate), sent % 500)
            try:
                producer.produce(
                    settings.topics.events,
                    value,
                    user,
                    on_delivery=lambda error, _: failed.append(error.str()) if error else None,
                )
            except BufferError:
                producer.poll(_TICK_S)
                continue
            sent += 1
        producer.poll(_TICK_S)
    if producer.flush(_DRAIN_S) or failed:
        raise SystemExit(f"not all events were delivered: {failed[:1]}")


def sending(settings: Settings, stream: Stream) -> BaseProcess:
    """The same in a process of its own, started."""
    return apart.started(send, settings, stream)
