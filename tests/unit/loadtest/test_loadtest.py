"""The load test's own arithmetic: schedule, ids, report."""

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hdrh.histogram import HdrHistogram
from prometheus_client import CollectorRegistry, Summary, generate_latest
from rich.console import Console

from loadtest import models, openloop, report, workload
from loadtest.constant import Constant, ConstantEngine
from loadtest.contenders.jobs import RATING, light_time
from loadtest.contenders.task import Job
from loadtest.generator import MAX_US, Load, Schedule, ScoredEvent, Sent, _records, check
from loadtest.openloop import Result
from loadtest.scrape import samples
from loadtest.waits import Page
from worker import events, pipeline
from worker.errors import IntentError
from worker.registry.alias import CHAMPION
from worker.settings import Kafka

LOAD = Load(rate=200.0, seconds=0.5, users=10, seed=1, first=1000)


def result(*latencies_us: int, missing: int = 0) -> Result:
    histogram = HdrHistogram(1, MAX_US, 3)
    for latency in latencies_us:
        histogram.record_value(latency)
    return Result(
        load=LOAD,
        measured=len(latencies_us),
        missing=missing,
        repeated=0,
        sent=Sent(p99_late_us=1500, max_late_us=2000),
        histogram=histogram,
    )


def test_the_schedule_is_fixed_by_its_start() -> None:
    schedule = Schedule(start_ns=1_000, rate=3.0, count=10)
    assert [schedule.due_ns(number) for number in (0, 1, 3)] == [1_000, 333_334_333, 1_000_001_000]
    assert [schedule.due_by(now_ns) for now_ns in (0, 1_000, 333_334_000, 333_334_334)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("job", "score", "place"),
    [
        ("full", ScoredEvent("1017", "2020-01-01T00:00:00.000Z"), 17),
        ("full", ScoredEvent("1100"), None),
        ("full", ScoredEvent("999"), None),
        ("full", ScoredEvent("another's"), None),
        ("light", ScoredEvent("", 1017), 17),
        ("light", ScoredEvent("", 1100), None),
        ("light", ScoredEvent("1017", "2020-01-01T00:00:00.000Z"), None),
    ],
)
def test_an_event_is_found_again_by_its_score(job: Job, score: ScoredEvent, place: int | None) -> None:
    assert replace(LOAD, job=job).place(score) == place


def test_records_are_valid_events_of_their_schedule() -> None:
    records = _records(LOAD, start_ms=1_470_000_000_000)
    assert len(records) == LOAD.count == 100
    decoded = [events.decode(value, key=key, timestamp_ms=1_470_000_000_000) for key, value in records]
    assert [event.event_id for event in decoded] == [f"{number}" for number in range(1000, 1100)]
    assert decoded[99].time_ms - decoded[0].time_ms == 495
    assert records == _records(LOAD, start_ms=1_470_000_000_000)


def test_light_records_are_numbered_by_their_time() -> None:
    (_, value), *_ = _records(replace(LOAD, job="light"), start_ms=0)
    assert light_time(value) == 1000
    assert 120 <= len(value) <= 180


def test_waits_are_means_of_what_came_between_two_looks() -> None:
    registry = CollectorRegistry()
    seconds = Summary("intent_transaction_seconds", "t", registry=registry)
    parts = Summary("loadtest_wait_seconds", "t", ["part"], registry=registry)
    seconds.observe(9.0)
    before = Page(samples(generate_latest(registry).decode()))
    for took_s in (0.002, 0.004):
        seconds.observe(took_s)
    parts.labels("produce").observe(0.001)
    after = Page(samples(generate_latest(registry).decode()))
    assert after.batches(before) == 2
    assert after.means_ms(before) == {"transaction, all of it": pytest.approx(3), "- produce": pytest.approx(1)}


def test_processor_time_is_told_an_event() -> None:
    events, spent = ("intent_event_to_score_seconds_count",), ("process_cpu_seconds_total",)
    before, after = Page({events: 1000.0, spent: 2.0}), Page({events: 6000.0, spent: 2.25})
    assert after.cpu_us(before) == pytest.approx(50)
    assert before.cpu_us(before) == 0


def test_what_was_not_delivered_is_told() -> None:
    check(Sent(p99_late_us=1, max_late_us=1))
    with pytest.raises(IntentError, match="3 events were not acknowledged"):
        check(Sent(p99_late_us=1, max_late_us=1, error="3 events were not acknowledged"))


async def test_the_constant_scorer_is_one_for_the_pipeline() -> None:
    rows = pipeline.ratings(await ConstantEngine().score([b"", b""]))
    assert rows == [RATING, RATING]
    assert len(Constant.of(0).risk) == 0


def test_the_report_holds_percentiles_and_where_it_was_taken() -> None:
    found = {"this worker": [result(*range(1000, 101_000, 1000))]}
    document = report.document(found, scorer="constant", job="full", partitions=4, workers=1, load_before=0.5)
    document = orjson.loads(orjson.dumps(document))
    (load,) = document["loads"]
    assert load["latency_ms"]["p50"] == pytest.approx(50, rel=0.01)
    assert load["latency_ms"]["p99"] == pytest.approx(99, rel=0.01)
    assert HdrHistogram.decode(load["hdr_us"]).get_total_count() == 100
    assert {"command", "date", "commit", "cpu", "cores"} <= document["taken"].keys()


def test_a_missing_score_shows_in_the_table() -> None:
    written = io.StringIO()
    Console(file=written, width=100).print(report.table({"this worker": [result(1000, missing=7)]}, title="t"))
    assert " 7 " in written.getvalue()


def test_parts_are_told_of_the_worker_alone() -> None:
    worker = replace(result(10_000), batches=5, cpu_us=40.0, parts_ms={"event sent to batch committed": 4.0})
    found = {"this worker": [worker], "bare": [result(6_000)]}
    document = report.document(found, scorer="constant", job="full", partitions=4, workers=2, load_before=0.5)
    first, other = document["loads"]
    assert first["parts_ms"][report.BEYOND] == pytest.approx(6, rel=0.01)
    assert other["parts_ms"] == {}
    told = [(load["workers"], load["batches"], load["cpu_us_per_event"]) for load in (first, other)]
    assert told == [(2, 5, 40.0), (1, None, None)]


def test_the_seconds_that_are_told_are_those_that_were_measured() -> None:
    warmed = replace(result(10_000), load=replace(LOAD, seconds=13.0), warmup_s=3.0)
    found = {"this worker": [warmed]}
    document = report.document(found, scorer="constant", job="full", partitions=4, workers=1, load_before=0.5)
    (load,) = document["loads"]
    assert (load["warmup_seconds"], load["seconds"], load["sent"]) == (3.0, 10.0, 2600)


def test_who_scored_nothing_is_told_too() -> None:
    written = io.StringIO()
    found = {"this worker": [result(missing=100)], "bare": [result(25_000)]}
    Console(file=written, width=120).print(report.table(found, title="t"))
    assert "nan / nan" in written.getvalue()


class Scores:
    """Stands where the consumer does: one poll after another, an event's number a score."""

    def __init__(self, *polls: int | None) -> None:
        self._polls = iter(polls)

    def poll(self, _timeout_s: float) -> Any:
        number = next(self._polls)
        if number is None:
            return None
        return SimpleNamespace(error=lambda: None, value=lambda: b'{"event_id":"%d"}' % number)

    def consume(self, _count: int, _timeout_s: float) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("polls", "repeated"),
    [
        pytest.param([1000, None, 1001, None], 0, id="each once"),
        pytest.param([1000, 1000, 1001, None], 1, id="one again"),
        pytest.param([1000, 1001, 1001, None], 1, id="the last again"),
    ],
)
def test_repeated_scores_are_counted_to_the_end(polls: list[int | None], repeated: int) -> None:
    load = Load(rate=200.0, seconds=0.01, users=1, seed=1, first=1000)
    schedule = Schedule(start_ns=time.monotonic_ns(), rate=200.0, count=2)
    read_ns, found = openloop._read(Scores(*polls), load, schedule)  # type: ignore[arg-type]  # a stand-in
    assert (read_ns > 0).all()
    assert found == repeated


def test_a_phase_that_never_begins_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_SETTLE_S", 0.0)
    models._until(lambda: True, "the worker has the challenger")
    with pytest.raises(IntentError, match="not within 0 s: the worker has the challenger"):
        models._until(lambda: False, "the worker has the challenger")


def test_the_champion_is_swapped_with_every_move(tmp_path: Path) -> None:
    registry = models.Registry(tmp_path, None)
    first, second, challenger = registry.versions
    seen = [registry.store.alias(registry.name, CHAMPION)]
    for _ in range(3):
        registry.swap()
        seen.append(registry.store.alias(registry.name, CHAMPION))
    assert [alias.version for alias in seen if alias] == [first, second, first, second]
    assert challenger not in {first, second}


def test_records_that_are_refused_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self, _: object) -> None:
            self._told: list[Callable[[Any, Any], None]] = []

        def produce(self, *_: object, on_delivery: Callable[[Any, Any], None]) -> None:
            self._told.append(on_delivery)

        def flush(self, _: float) -> int:
            self._told[0](SimpleNamespace(str=lambda: "too large"), None)
            return 0

    monkeypatch.setattr(workload, "Producer", Refused)
    with pytest.raises(IntentError, match="windows: too large"):
        workload.put(Kafka(), "windows", [(b"k", b"v", 0)], compression="lz4")


def test_another_s_latencies_are_told_as_times_the_first_s() -> None:
    written = io.StringIO()
    found = {"this worker": [result(10_000)], "bare": [result(25_000)]}
    Console(file=written, width=120).print(report.table(found, title="t"))
    assert "2.50 / 2.50" in written.getvalue()
