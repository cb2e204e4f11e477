"""The open-loop generator: event n leaves at start + n / rate, whatever became of those before it.

Runs in a process of its own: nothing that the measurement does can delay it. Knows nothing of scores.
"""

import math
import random
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import msgspec
import numpy as np
from confluent_kafka import KafkaError, Message, Producer
from hdrh.histogram import HdrHistogram

from loadtest.contenders.task import Job
from worker import events
from worker.errors import IntentError
from worker.events import Event, Item
from worker.kafka import clients
from worker.settings import Settings

_PRODUCER: Final = {
    "linger.ms": 5,  # the Java client's default since Kafka 4
    "enable.idempotence": True,
    "delivery.report.only.error": True,
    "queue.buffering.max.messages": 1_000_000,
}
KINDS: Final = ("page_view", "view_item_list", "select_item", "view_item", "view_item", "add_to_cart", "search")
TICK_NS: Final = 1_000_000
"""It wakes so often: for each event, it would take of the machine what it is to measure. How late that makes an event
counts as latency.
"""
LEAD_S: Final = 0.5
"""Between telling the schedule and its start."""
APART: Final = 1_000_000_000
"""Between the first numbers of two loads."""
MAX_US: Final = 600_000_000
"""Ten minutes: the longest latency that is told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When each event is due, on the machine's monotonic clock, which its processes share."""

    start_ns: int
    rate: float
    count: int

    def due_ns(self, number: int) -> int:
        """When event `number` (from 0) is to be sent."""
        return self.start_ns + round(number * 1e9 / self.rate)

    def due_by(self, now_ns: int) -> int:
        """How many are due at that moment."""
        return max(0, math.floor((now_ns - self.start_ns) * self.rate / 1e9) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send. Events are numbered: those of one load begin at `first`, apart from another's."""

    rate: float
    seconds: float
    users: int
    seed: int
    first: int = 0
    job: Job = "full"

    @property
    def count(self) -> int:
        """How many events that is."""
        return round(self.rate * self.seconds)

    def place(self, score: "ScoredEvent") -> int | None:
        """Which of the load's events was scored, from 0; None for another load's.

        *light* has no room for an id in its scores: there the number goes as the event's time.
        """
        if self.job == "light":
            number = score.event_time if isinstance(score.event_time, int) else -1
        else:
            number = int(score.event_id) if score.event_id.isdecimal() else -1
        place = number - self.first
        return place if 0 <= place < self.count else None


class ScoredEvent(msgspec.Struct, frozen=True):
    """The part of a score that tells its event."""

    event_id: str = ""
    event_time: int | str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How the generator itself kept to its schedule: if this is not small, the machine is the limit, not the worker."""

    p99_late_us: int
    max_late_us: int
    error: str = ""


def generate(settings: Settings, load: Load, pipe: Connection) -> None:
    """Send one load: tells its `Schedule` through `pipe` once all is prepared, and `Sent` at the end."""
    producer = Producer({**clients.librdkafka(settings.kafka), **_PRODUCER})
    producer.list_topics(settings.topics.events, timeout=10)  # connect before the clock runs
    records = _records(load, start_ms=time.time_ns() // 1_000_000)
    schedule = Schedule(start_ns=time.monotonic_ns() + round(LEAD_S * 1e9), rate=load.rate, count=load.count)
    pipe.send(schedule)
    pipe.send(_send(producer, settings.topics.events, records, schedule))


def _send(producer: Producer, topic: str, records: list[tuple[bytes, bytes]], schedule: Schedule) -> Sent:
    """What is due leaves, a tick at a time. Little is done for an event: others need the machine."""
    sent_ns = np.zeros(len(records), np.int64)
    failed: list[str] = []

    def told(error: KafkaError | None, _: Message) -> None:
        failed.append(str(error))

    number = 0
    while number < len(records):
        producer.poll(0)
        next_ns = max(schedule.due_ns(number), sent_ns[number - 1] + TICK_NS if number else 0)
        time.sleep(max(0, next_ns - time.monotonic_ns()) / 1e9)
        until = min(len(records), schedule.due_by(time.monotonic_ns()))
        for key, value in records[number:until]:
            producer.produce(topic, value, key, on_delivery=told)
        sent_ns[number:until] = time.monotonic_ns()
        number = until
    left = producer.flush(60)
    late_us = HdrHistogram(1, MAX_US, 3)
    for place, moment_ns in enumerate(sent_ns.tolist()):
        late_us.record_value(max((moment_ns - schedule.due_ns(place)) // 1000, 1))
    error = failed[0] if failed else f"{left} events were not acknowledged" if left else ""
    return Sent(p99_late_us=late_us.get_value_at_percentile(99), max_late_us=late_us.get_max_value(), error=error)


def _records(load: Load, *, start_ms: int) -> list[tuple[bytes, bytes]]:
    """Key and value of every event, encoded ahead of time. Repeatable by seed, but for the start."""
    rng = random.Random(load.seed)
    records = []
    for number in range(load.first, load.first + load.count):
        user = f"user-{rng.randrange(load.users)}"
        item = Item(
            item_id=f"sku-{rng.randrange(500)}", item_category="Home/Apparel", price=rng.randrange(100, 9000) / 100
        )
        event = Event(
            event_id=f"{number}",
            user_id=user,
            event_time=start_ms + round((number - load.first) * 1000 / load.rate),
            type=rng.choice(KINDS),
            session_id=f"{user}-{load.first}",
            items=(item,),
        )
        if load.job == "light":
            event = msgspec.structs.replace(event, event_time=number, session_id=None)
        records.append((user.encode(), events.encode(event)))
    return records


def check(sent: Sent) -> None:
    """Raises `IntentError` when not all was delivered."""
    if sent.error:
        raise IntentError(f"the generator could not deliver its events: {sent.error}")
