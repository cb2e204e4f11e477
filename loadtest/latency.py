"""Latency as a reader of committed scores has it: from an event's scheduled send to its score in hand.

Open loop and corrected: the clock of each event starts when it was due, not when it got out, so a stall of any part
shows in every event that was due meanwhile (coordinated omission does not arise).
"""

import multiprocessing
import time
from dataclasses import dataclass
from typing import Final

import msgspec
from confluent_kafka import Consumer, TopicPartition
from hdrh.histogram import HdrHistogram

from loadtest import generator
from loadtest.generator import MAX_US, Load, Schedule, Sent
from worker.config import Settings
from worker.errors import IntentError
from worker.kafka import clients

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
DRAIN_S: Final = 60.0
"""How long after the last scheduled send a score may come: later ones count as missing."""


class _ScoredEvent(msgspec.Struct, frozen=True):
    """The part of a score that is read here."""

    event_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One load's outcome; latencies in microseconds. Events of the warm-up are sent, awaited and not measured."""

    load: Load
    measured: int
    missing: int
    repeated: int
    sent: Sent
    elapsed_s: float
    histogram: HdrHistogram

    def percentile_ms(self, percentile: float) -> float:
        """Latency that so many percent of the events did not exceed."""
        return float(self.histogram.get_value_at_percentile(percentile)) / 1000

    @property
    def max_ms(self) -> float:
        """The longest."""
        return float(self.histogram.get_max_value()) / 1000


def measure(settings: Settings, load: Load, *, warmup_s: float) -> Result:
    """Send one load and read its scores. Blocks until all have come, or `DRAIN_S` after the last was sent."""
    consumer = _at_the_end(settings)
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=generator.generate, args=(settings, load, theirs), daemon=True
    )
    process.start()
    theirs.close()
    try:
        schedule = mine.recv()
        seen = _read(consumer, load, schedule, skip=round(load.rate * warmup_s))
        sent = mine.recv()
    except EOFError:
        raise IntentError("the generator ended early; its error is above") from None
    finally:
        consumer.close()
        process.join(10)
        process.kill()
    generator.check(sent)
    elapsed_s = (time.monotonic_ns() - schedule.start_ns) / 1e9
    return Result(
        load=load,
        measured=seen.histogram.get_total_count(),
        missing=load.count - len(seen.numbers),
        repeated=seen.repeated,
        sent=sent,
        elapsed_s=elapsed_s,
        histogram=seen.histogram,
    )


@dataclass(slots=True)
class _Seen:
    histogram: HdrHistogram
    numbers: set[int]
    repeated: int = 0


def _read(consumer: Consumer, load: Load, schedule: Schedule, *, skip: int) -> _Seen:
    decoder = msgspec.json.Decoder(_ScoredEvent)
    seen = _Seen(HdrHistogram(1, MAX_US, 3), set())
    give_up_ns = schedule.due_ns(load.count) + round(DRAIN_S * 1e9)
    while len(seen.numbers) < load.count and time.monotonic_ns() < give_up_ns:
        message = consumer.poll(0.5)
        now_ns = time.monotonic_ns()
        if message is None:
            continue
        if (error := message.error()) is not None:
            raise IntentError(f"the scores cannot be read: {error.str()}")
        number = generator.number_of(load.name, decoder.decode(message.value() or b"{}").event_id)
        if number is None:
            continue
        if number in seen.numbers:
            seen.repeated += 1
            continue
        seen.numbers.add(number)
        if number >= skip:
            seen.histogram.record_value(min(max((now_ns - schedule.due_ns(number)) // 1000, 1), MAX_US))
    return seen


def _at_the_end(settings: Settings) -> Consumer:
    """A reader of committed scores, from here on, that waits for nothing."""
    consumer = Consumer(
        {
            **clients.librdkafka(settings.kafka),
            "group.id": "intent-loadtest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,
            "fetch.min.bytes": 1,
        }
    )
    topic = settings.topics.scores
    ends = [
        TopicPartition(topic, number, consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1])
        for number in range(settings.topics.partitions)
    ]
    consumer.assign(ends)
    return consumer
