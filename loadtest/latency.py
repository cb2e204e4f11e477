"""Latency as a reader of committed scores has it: from an event's scheduled send to its score in hand.

Open loop and corrected: the clock of each event starts when it was due, not when it got out, so a stall of any part
shows in every event that was due meanwhile (coordinated omission does not arise).
"""

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import orjson
import typer
from confluent_kafka import Consumer, TopicPartition
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray
from rich.console import Console

from loadtest import generator, taken
from loadtest.contenders.task import Job
from loadtest.generator import APART, MAX_US, Load, Schedule, ScoredEvent, Sent
from loadtest.scrape import scrape
from loadtest.waits import Page
from worker.config import Settings
from worker.errors import CheckFailed, IntentError, SettingError
from worker.kafka import clients

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
_AT_ONCE: Final = 10_000
"""Scores that the reader takes in one call."""
DRAIN_S: Final = 60.0
"""How long after the last scheduled send a score may come: later ones count as missing."""

out = Console()
err = Console(stderr=True)


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
    batches: int = 0
    """Transactions of what was measured."""
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    """Where a batch's time went, by `waits.PARTS`; the mean."""

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
        skip = round(load.rate * warmup_s)
        with ThreadPoolExecutor(1) as beside:
            warm = beside.submit(_page_at, settings, schedule.due_ns(skip))
            read_ns, repeated = _read(consumer, load, schedule)
            sent = mine.recv()
        before = warm.result()
    except EOFError:
        raise IntentError("the generator ended early; its error is above") from None
    finally:
        consumer.close()
        process.join(10)
        process.kill()
    after = Page(scrape(settings))
    generator.check(sent)
    histogram = _latencies(load, schedule, read_ns, skip=skip)
    elapsed_s = (time.monotonic_ns() - schedule.start_ns) / 1e9
    return Result(
        load=load,
        measured=histogram.get_total_count(),
        missing=int((read_ns == 0).sum()),
        repeated=repeated,
        sent=sent,
        elapsed_s=elapsed_s,
        histogram=histogram,
        batches=after.batches(before),
        parts_ms=after.means_ms(before),
    )


def _page_at(settings: Settings, at_ns: int) -> Page:
    """The worker's metrics at that moment of the monotonic clock."""
    time.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)
    return Page(scrape(settings))


def _read(consumer: Consumer, load: Load, schedule: Schedule) -> tuple[NDArray[np.int64], int]:
    """When each event's score was first in hand, monotonic ns, 0 for never; and how many came again.

    No more is done with a score while others come: what the reader takes of the machine, the worker lacks.
    """
    decode = msgspec.json.Decoder(ScoredEvent).decode
    read_ns = np.zeros(load.count, np.int64)
    repeated, left = 0, load.count
    give_up_ns = schedule.due_ns(load.count) + round(DRAIN_S * 1e9)
    while left and time.monotonic_ns() < give_up_ns:
        first = consumer.poll(0.5)
        if first is None:
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


def latency(
    *,
    rate: Annotated[
        list[float] | None, typer.Option(min=1, help="Events a second; repeat for several. Default: 500 and 2000.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure each rate.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before that, not measured.")] = 3.0,
    users: Annotated[int, typer.Option(min=1, help="How many users the events are of.")] = 10_000,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of each topic.")] = 4,
    scorer: Annotated[
        Literal["constant", "bundle"],
        typer.Option(
            help="constant: a score that costs nothing, so what is measured is the stream; bundle: the model."
        ),
    ] = "constant",
    job: Annotated[
        Job, typer.Option(help="full: the product's own work. light: as in `pipeline`, with the constant scorer only.")
    ] = "full",
    settle: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds of the highest rate that are sent first and not told: a broker that has just been started "
            "spends its first minute compiling its Java.",
        ),
    ] = 30.0,
    bootstrap_servers: Annotated[str | None, typer.Option(help="Your own Kafka; default: one is started here.")] = None,
    seed: Annotated[int, typer.Option(help="Of users, kinds and items.")] = 1,
    folder: Annotated[Path, typer.Option("--out", help="Folder for latency.json and latency.png.")] = Path(
        "runs/latency"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="The JSON on standard output too, in place of the table.")
    ] = False,
) -> None:
    """Measure latency under open-loop load: from an event's scheduled send to its committed score in a reader's hand.

    Starts a broker and a worker on this machine, sends each rate for its time, and writes a table, a plot and JSON. The
    schedule is fixed beforehand and kept whatever happens, so a stall shows in every event that was due meanwhile.
    Exit code 3 when a score is missing or comes twice.
    """
    from loadtest import report
    from loadtest.system import running

    rates = rate or [500.0, 2000.0]
    if job == "light" and scorer != "constant":
        raise SettingError("`--job light` goes with `--scorer constant`: its windows are not what a model reads")
    load_before = taken.load_before(err)
    results: list[Result] = []
    with (
        err.status("starting Kafka and the worker") as status,
        running(scorer=scorer, job=job, partitions=partitions, servers=bootstrap_servers) as settings,
    ):
        numbers = count(step=APART)
        if settle:
            status.update(f"settling: {max(rates):,.0f} events/s for {settle:.0f} s")
            first = Load(rate=max(rates), seconds=settle, users=users, seed=seed, first=next(numbers), job=job)
            measure(settings, first, warmup_s=settle)
        for each in rates:
            status.update(f"{each:,.0f} events/s for {warmup + seconds:.0f} s")
            load = Load(rate=each, seconds=warmup + seconds, users=users, seed=seed, first=next(numbers), job=job)
            results.append(measure(settings, load, warmup_s=warmup))
        status.update("stopping")
    title = f"Latency, {job} job, scorer {scorer}, {partitions} partitions"
    document = report.document(results, scorer=scorer, job=job, partitions=partitions, load_before=load_before)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latency.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    report.plot(results, folder / "latency.png", title=title)
    if as_json:
        typer.echo(orjson.dumps(document).decode())
    else:
        out.print(report.table(results, title=title))
        out.print(report.parts(results))
        out.print(f"written: {folder / 'latency.json'}, {folder / 'latency.png'}", highlight=False)
    missing, repeated = (sum(getattr(result, name) for result in results) for name in ("missing", "repeated"))
    if missing or repeated:
        raise CheckFailed(f"{missing} scores are missing and {repeated} came twice")
