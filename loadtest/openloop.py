"""Latency as a reader of committed scores has it: from an event's scheduled send to its score in hand.

Open loop and corrected: the clock of each event starts when it was due, not when it got out, so a stall of any part
shows in every event that was due meanwhile (coordinated omission does not arise).
"""

import multiprocessing
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from confluent_kafka import Consumer, TopicPartition
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from loadtest import apart, generator
from loadtest.generator import MAX_US, Load, Schedule, ScoredEvent, Sent
from loadtest.scrape import scrape
from loadtest.waits import Page
from worker.errors import IntentError
from worker.kafka import clients
from worker.settings import Settings

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
_AT_ONCE: Final = 10_000
"""Scores that the reader takes in one call."""
DRAIN_S: Final = 60.0
"""How long after the last scheduled send a score may come: later ones count as missing."""
_SILENT_S: Final = 0.5
"""With every score in hand, silence of that length ends the reading: what comes again comes behind the first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One load's outcome; latencies in microseconds. Events of the warm-up are sent, awaited and not measured."""

    load: Load
    warmup_s: float = 0.0
    """Of the load's seconds."""
    measured: int
    missing: int
    repeated: int
    sent: Sent
    histogram: HdrHistogram
    batches: int = 0
    """Transactions of what was measured; a worker's only, as what follows."""
    cpu_us: float = 0.0
    """Of the worker, an event."""
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    """Where a batch's time went, by `waits.PARTS`; the mean."""

    def percentile_ms(self, percentile: float) -> float:
        """Latency that so many percent of the events did not exceed."""
        return float(self.histogram.get_value_at_percentile(percentile)) / 1000

    @property
    def max_ms(self) -> float:
        """The longest."""
        return float(self.histogram.get_max_value()) / 1000


def measure(workers: Sequence[Settings], load: Load, *, warmup_s: float) -> Result:
    """Send one load to a deployment and read its scores. Blocks until all came, or `DRAIN_S` after the last send."""
    settings = workers[0]
    consumer = _at_the_end(settings)
    mine, theirs = multiprocessing.Pipe()
    process = apart.started(generator.generate, settings, load, theirs)
    theirs.close()
    try:
        schedule = mine.recv()
        skip = round(load.rate * warmup_s)
        over = threading.Event()
        with ThreadPoolExecutor(1) as beside:
            warm = beside.submit(_page_at, workers, schedule.due_ns(skip), over)
            try:
                read_ns, repeated = _read(consumer, load, schedule)
                sent = mine.recv()
            finally:
                over.set()
        before = warm.result()
    except EOFError:
        raise IntentError("the generator ended early; its error is above") from None
    finally:
        consumer.close()
        process.kill()  # it has told all, or is not wanted any more
        process.join()
    after = Page(scrape(workers))
    generator.check(sent)
    histogram = _latencies(load, schedule, read_ns, skip=skip)
    return Result(
        load=load,
        warmup_s=warmup_s,
        measured=histogram.get_total_count(),
        missing=int((read_ns == 0).sum()),
        repeated=repeated,
        sent=sent,
        histogram=histogram,
        batches=after.batches(before),
        cpu_us=after.cpu_us(before),
        parts_ms=after.means_ms(before),
    )


def _page_at(workers: Sequence[Settings], at_ns: int, over: threading.Event) -> Page:
    """The workers' metrics at that moment of the monotonic clock, or at once when all is over before."""
    over.wait(max(0, at_ns - time.monotonic_ns()) / 1e9)
    return Page(scrape(workers))


def _read(consumer: Consumer, load: Load, schedule: Schedule) -> tuple[NDArray[np.int64], int]:
    """When each event's score was first in hand, monotonic ns, 0 for never; and how many came again, the last's too.

    No more is done with a score while others come: what the reader takes of the machine, the worker lacks.
    """
    decode = msgspec.json.Decoder(ScoredEvent).decode
    read_ns = np.zeros(load.count, np.int64)
    repeated, left = 0, load.count
    give_up_ns = schedule.due_ns(load.count) + round(DRAIN_S * 1e9)
    while time.monotonic_ns() < give_up_ns:
        first = consumer.poll(_SILENT_S)
        if first is None:
            if not left:
                break
            continue
        messages = [first, *consumer.consume(_AT_ONCE, 0)]
        now_ns = time.monotonic_ns()
        for message in messages:
            if (error := message.error()) is not None:
                raise IntentError(f"the scores cannot be read: {error.str()}")
            place = load.place(decode(message.value() or b"{}"))
            if place is None:
                continue
            if read_ns[place]:
                repeated += 1
                continue
            read_ns[place] = now_ns
            left -= 1
    return read_ns, repeated


def _latencies(load: Load, schedule: Schedule, read_ns: NDArray[np.int64], *, skip: int) -> HdrHistogram:
    """Of the events that were scored, the first `skip` left out; microseconds."""
    histogram = HdrHistogram(1, MAX_US, 3)
    for place in range(skip, load.count):
        if read_ns[place]:
            latency_us = (int(read_ns[place]) - schedule.due_ns(place)) // 1000
            histogram.record_value(min(max(latency_us, 1), MAX_US))
    return histogram


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
