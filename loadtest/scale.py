"""What more workers bring, what it costs to add or lose one, and what more users cost.

Throughput is that of a topic that is full beforehand; a rebalance is seen by a reader of committed scores, under a
steady load; the cost of users is CPU an event with so many windows in the state folders.
"""

import datetime as dt
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
import typer
from confluent_kafka import Consumer, TopicPartition
from rich.table import Table

from loadtest import fleet, population, recovery, taken, workload
from loadtest.conclude import conclude
from loadtest.fleet import Member
from loadtest.options import Json, out
from loadtest.population import Population
from loadtest.steady import Stream, sending
from worker.errors import CheckFailed, IntentError
from worker.kafka import clients
from worker.kafka.broker import EmbeddedBroker
from worker.settings import Settings
from worker.terminal import err

_PARTITIONS: Final = 8
_READY_S: Final = 180.0
_SESSION_S: Final = 6.0
_SETTLE_S: Final = 5.0
_PAUSABLE: Final = {"session_timeout_s": 25.0}
"""Workers that are paused while a topic is filled stay in their group."""
_EVENT: Final = b'{"event_id":"e%d","user_id":"%s","event_time":%d,"type":"view_item"}'


class Part(StrEnum):
    """What is measured."""

    WORKERS = "workers"
    REBALANCES = "rebalances"
    USERS = "users"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """So many workers, all at work on a full topic, between a tenth and nine tenths of it; CPU is of all of them."""

    workers: int
    events_per_s: float
    cpu_us_per_event: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A reader's view of one stretch of a steady load: latencies, and the longest time that a partition was silent."""

    name: str
    p50_ms: float
    p99_ms: float
    max_ms: float
    pause_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """One worker that holds so many users."""

    users: int
    events_per_s: float
    cpu_us_per_event: float


class _Score(msgspec.Struct, frozen=True):
    event_id: str
    event_time: str


class Seen(NamedTuple):
    """A committed score in a reader's hand: whose, and when (s since 1970, s after its event was due)."""

    event_id: str
    partition: int
    arrival_s: float
    latency_s: float


def scale(
    *,
    part: Annotated[list[Part] | None, typer.Option(help="Only these; repeat for several. Default: all.")] = None,
    workers: Annotated[
        list[int] | None, typer.Option(min=1, max=_PARTITIONS, help="Repeat for several. Default: 1, 2 and 4.")
    ] = None,
    events: Annotated[int, typer.Option(min=1000, help="Of a full topic, for throughput.")] = 300_000,
    rate: Annotated[float, typer.Option(min=1, help="Events a second while workers come and go.")] = 2000.0,
    seconds: Annotated[float, typer.Option(min=1, help="Of each stretch of that.")] = 10.0,
    users: Annotated[
        list[int] | None, typer.Option(min=100, help="Repeat for several. Default: 1,000 to 1,000,000 by tens.")
    ] = None,
    folder: Annotated[Path, out("scale.json")] = Path("runs/scale"),
    as_json: Json = False,
) -> None:
    """Measure scaling: throughput of several workers, the pause when one joins, leaves or dies, cost of more users.

    Eight partitions; workers, broker and load share this machine's cores, so more workers than cores bring nothing
    here. Exit code 3 when a score is missing or comes twice.
    """
    parts = part or list(Part)
    load_before = taken.load_before(err)
    with tempfile.TemporaryDirectory(prefix="intent-scale-") as temporary, err.status("starting Kafka") as status:
        place = Path(temporary)
        with EmbeddedBroker(place / "kafka", heap_mb=1024) as broker:
            servers = broker.bootstrap_servers
            throughput = []
            for count in (workers or (1, 2, 4)) if Part.WORKERS in parts else ():
                status.update(f"throughput of {count} workers")
                throughput.append(_throughput(place, servers, workers=count, events=events))
            phases: list[Phase] = []
            missing = repeated = 0
            if Part.REBALANCES in parts:
                status.update("workers come and go")
                phases, missing, repeated = _rebalances(place, servers, rate=rate, seconds=seconds)
            crowds = []
            if Part.USERS in parts:
                status.update("making windows")
                people = population.made(None)
                for count in users or (1_000, 10_000, 100_000, 1_000_000):
                    status.update(f"{count:,} users")
                    crowds.append(_crowd(place, servers, people, users=count, events=events))
    document = {
        "taken": taken.provenance(load_before=load_before),
        "partitions": _PARTITIONS,
        "throughput": [asdict(each) for each in throughput],
        "rebalances": {
            "rate": rate,
            "missing": missing,
            "repeated": repeated,
            "phases": [asdict(each) for each in phases],
        },
        "users": [asdict(each) for each in crowds],
    }
    conclude(document, folder, "scale", lambda: _tables(throughput, phases, crowds, rate=rate), as_json=as_json)
    if missing or repeated:
        raise CheckFailed(f"{missing} scores are missing and {repeated} came twice")


# -- throughput --------------------------------------------------------------------------------------------------------


def _throughput(place: Path, servers: str, *, workers: int, events: int) -> Throughput:
    settings = fleet.deployment(place, servers=servers, partitions=_PARTITIONS, worker=_PAUSABLE)
    load = workload.make("light", events, sample=None)
    members = [Member(settings, place, name=f"{workers}-workers-{number}") for number in range(workers)]
    with fleet.at_work(members, within_s=_READY_S):  # the first could be through before the last has joined
        with fleet.paused(*members):
            workload.publish(settings.kafka, settings.topics.events, load.records)
        rate, cpu_us = _worked_off(members, events)
    return Throughput(workers=workers, events_per_s=rate, cpu_us_per_event=cpu_us)


def _worked_off(members: Sequence[Member], events: int) -> tuple[float, float]:
    """Events a second and CPU microseconds an event, between a tenth and nine tenths of the events.

    Raises `IntentError` where both are done at one look.
    """

    def done() -> float:
        return sum(member.metrics("intent_events_total")["intent_events_total"] for member in members)

    members[0].until(lambda: done() >= 0.1 * events, "a tenth is done", within_s=_READY_S)
    began, first, cpu = time.monotonic(), done(), _cpu_s(members)
    members[0].until(lambda: done() >= 0.9 * events, "nine tenths are done", within_s=_READY_S)
    count, seconds = done() - first, time.monotonic() - began
    if not count:
        raise IntentError(f"{events:,} events were done before they could be timed; give more --events")
    return round(count / seconds), round((_cpu_s(members) - cpu) / count * 1e6, 1)


def _cpu_s(members: Sequence[Member]) -> float:
    times = [member.process.cpu_times() for member in members]
    return sum(each.user + each.system for each in times)


# -- rebalances --------------------------------------------------------------------------------------------------------


def _rebalances(place: Path, servers: str, *, rate: float, seconds: float) -> tuple[list[Phase], int, int]:
    """One worker; another joins, leaves, joins again and is killed. The phases; scores missing, and repeated."""
    settings = fleet.deployment(
        place, servers=servers, partitions=_PARTITIONS, worker={"session_timeout_s": _SESSION_S}
    )
    first, second = (Member(settings, place, name=name) for name in ("first", "second"))
    stretches = ("one worker", "another joins", "it leaves", "it joins again", "it is killed")
    load = Stream(rate=rate, seconds=3600, users=10_000, name="scale")  # ended by us
    with fleet.stopped_at_the_end(first, second), _reading(settings) as seen:
        first.start()
        first.until(first.ready, "the worker is ready", within_s=_READY_S)
        process = sending(settings, load)
        first.until(lambda: bool(seen), "scores come", within_s=_READY_S)
        time.sleep(_SETTLE_S)
        borders = []
        acts: list[Callable[[], None] | None] = [None, second.start, second.stop, second.start, second.kill]
        for act in acts:
            borders.append(time.time())
            if act is not None:
                act()
                if act == second.start:
                    second.until(lambda: bool(second.partitions()), "it joins", within_s=_READY_S)
                else:
                    first.until(lambda: len(first.partitions()) == _PARTITIONS, "it has them all", within_s=_READY_S)
                _scored_again(first, seen)
            time.sleep(seconds)
        borders.append(time.time())
        process.terminate()
        process.join()
        sent = _count(settings)
        deadline = time.monotonic() + _READY_S
        while len(seen) < sent and time.monotonic() < deadline:
            time.sleep(0.1)
    phases = [
        _phase(name, seen, begin=begin, end=end)
        for name, begin, end in zip(stretches, borders[:-1], borders[1:], strict=True)
    ]
    return phases, *missing_and_repeated(seen, sent)


def _scored_again(member: Member, seen: Sequence[Seen]) -> None:
    """Until a score of each partition has come: a pause that outlasted its stretch would be told as too short."""
    before = len(seen)
    member.until(
        lambda: len({each.partition for each in seen[before:]}) == _PARTITIONS,
        "all are scored again",
        within_s=_READY_S,
    )


def missing_and_repeated(seen: Sequence[Seen], sent: int) -> tuple[int, int]:
    """Of so many events: how many have no score, and how many scores are of an event that has one already."""
    times = Counter(each.event_id for each in seen)
    return sent - len(times), len(seen) - len(times)


def _count(settings: Settings) -> int:
    """Events in the source topic."""
    consumer = Consumer({**clients.librdkafka(settings.kafka), "group.id": "intent-loadtest-scale"})
    try:
        places = [TopicPartition(settings.topics.events, number) for number in range(_PARTITIONS)]
        return sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
    finally:
        consumer.close()


def _phase(name: str, seen: Sequence[Seen], *, begin: float, end: float) -> Phase:
    """From `begin` to `end` (s since 1970). A partition may be silent up to the very end."""
    within = [each for each in seen if begin <= each.arrival_s < end]
    if not within:
        raise IntentError(f"no score came in {end - begin:.1f} s ({name}); give a higher --rate or more --seconds")
    latencies_ms = np.array([each.latency_s for each in within]) * 1000
    arrivals: dict[int, list[float]] = {each.partition: [begin] for each in seen}
    for each in within:
        arrivals[each.partition].append(each.arrival_s)
    pauses = [float(np.diff([*each, end]).max()) for each in arrivals.values()]
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return Phase(
        name=name,
        p50_ms=round(float(p50), 1),
        p99_ms=round(float(p99), 1),
        max_ms=round(float(latencies_ms.max()), 1),
        pause_ms=round(max(pauses) * 1000, 1),
    )


@contextmanager
def _reading(settings: Settings) -> Iterator[list[Seen]]:
    """Follow the committed scores in a thread."""
    seen: list[Seen] = []
    ended = threading.Event()

    def follow() -> None:
        consumer = Consumer(
            {
                **clients.librdkafka(settings.kafka),
                "group.id": "intent-loadtest-scale",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
            }
        )
        consumer.assign([TopicPartition(settings.topics.scores, number, 0) for number in range(_PARTITIONS)])
        decoder = msgspec.json.Decoder(_Score)
        while not ended.is_set():
            messages = consumer.consume(1000, 0.05)
            now = time.time()
            for message in messages:
                partition, value = message.partition(), message.value()
                if message.error() is None and partition is not None and isinstance(value, bytes):
                    score = decoder.decode(value)
                    due_s = dt.datetime.fromisoformat(score.event_time).timestamp()
                    seen.append(Seen(score.event_id, partition, now, now - due_s))
        consumer.close()

    thread = threading.Thread(target=follow, name="reader")
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


# -- users -------------------------------------------------------------------------------------------------------------


def _crowd(place: Path, servers: str, people: Population, *, users: int, events: int) -> Crowd:
    """One worker whose state holds so many users' windows, and events of users drawn at random."""
    settings = fleet.deployment(place, servers=servers, partitions=_PARTITIONS, worker=_PAUSABLE)
    keys: list[bytes] = []

    def kept() -> Iterator[tuple[bytes, bytes]]:
        for key, value in people.users(users, seed=1):
            keys.append(key)
            yield key, value

    recovery.fill(settings.kafka, settings.changelog, kept(), partitions=_PARTITIONS)
    rng = random.Random(3)
    newest_ms = population.NEWEST_MS
    chosen = ((number, rng.randrange(users)) for number in range(events))
    records = (
        (keys[user], _EVENT % (number, keys[user], newest_ms), user % _PARTITIONS)  # where the user's window is
        for number, user in chosen
    )
    member = Member(settings, place, name=f"{users}-users")
    with fleet.at_work([member], within_s=_READY_S):
        with fleet.paused(member):
            workload.put(settings.kafka, settings.topics.events, records, compression="lz4")
        rate, cpu_us = _worked_off([member], events)
    return Crowd(users=users, events_per_s=rate, cpu_us_per_event=cpu_us)


# -- shown -------------------------------------------------------------------------------------------------------------


def _tables(
    throughput: Sequence[Throughput], phases: Sequence[Phase], crowds: Sequence[Crowd], *, rate: float
) -> Iterator[Table]:
    if throughput:
        rows = [
            (f"{each.workers}", f"{each.events_per_s:,.0f}", f"{each.cpu_us_per_event:,.1f}") for each in throughput
        ]
        yield _table("A full topic of 8 partitions, the light events", ("workers", "events/s", "CPU µs/event"), rows)
    if phases:
        title = f"Workers come and go at {rate:,.0f} events/s; pause: the longest that a partition was silent"
        stretches = [
            (each.name, *(f"{value:,.0f}" for value in (each.p50_ms, each.p99_ms, each.max_ms, each.pause_ms)))
            for each in phases
        ]
        yield _table(title, ("", "p50 ms", "p99 ms", "max ms", "pause ms"), stretches)
    if crowds:
        costs = [(f"{each.users:,}", f"{each.events_per_s:,.0f}", f"{each.cpu_us_per_event:,.1f}") for each in crowds]
        yield _table("One worker that holds so many users", ("users", "events/s", "CPU µs/event"), costs)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(title=title, title_justify="left")
    for column in columns:
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown
