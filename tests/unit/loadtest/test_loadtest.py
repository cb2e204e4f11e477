"""The load test's own arithmetic: schedule, ids, report."""

import io

import orjson
import pytest
from hdrh.histogram import HdrHistogram
from rich.console import Console

from loadtest import report
from loadtest.constant import Constant, ConstantEngine
from loadtest.generator import MAX_US, Load, Schedule, Sent, _records, check, event_id, number_of
from loadtest.latency import Result
from worker import events, pipeline
from worker.errors import IntentError

LOAD = Load(name="load0", rate=200.0, seconds=0.5, users=10, seed=1)


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
        elapsed_s=1.0,
        histogram=histogram,
    )


def test_the_schedule_is_fixed_by_its_start() -> None:
    schedule = Schedule(start_ns=1_000, rate=3.0, count=10)
    assert [schedule.due_ns(number) for number in (0, 1, 3)] == [1_000, 333_334_333, 1_000_001_000]


@pytest.mark.parametrize(
    ("event", "number"), [("load0-17", 17), ("load1-17", None), ("other", None), ("load0-", None), ("load0-x", None)]
)
def test_numbers_are_found_again(event: str, number: int | None) -> None:
    assert number_of("load0", event) == number


def test_records_are_valid_events_of_their_schedule() -> None:
    records = _records(LOAD, start_ms=1_470_000_000_000)
    assert len(records) == LOAD.count == 100
    decoded = [events.decode(value, key=key, timestamp_ms=1_470_000_000_000) for key, value in records]
    assert [event.event_id for event in decoded] == [event_id("load0", number) for number in range(100)]
    assert decoded[99].time_ms - decoded[0].time_ms == 495
    assert records == _records(LOAD, start_ms=1_470_000_000_000)


def test_what_was_not_delivered_is_told() -> None:
    check(Sent(p99_late_us=1, max_late_us=1))
    with pytest.raises(IntentError, match="3 events were not acknowledged"):
        check(Sent(p99_late_us=1, max_late_us=1, error="3 events were not acknowledged"))


async def test_the_constant_scorer_is_one_for_the_pipeline() -> None:
    rows = pipeline.ratings(await ConstantEngine().score([b"", b""]))
    assert len(rows) == 2
    assert list(rows[0].intent) == [0.5, 0.5, 0.5]
    assert len(Constant.of(0).risk) == 0


def test_the_report_holds_percentiles_and_where_it_was_taken() -> None:
    document = report.document([result(*range(1000, 101_000, 1000))], scorer="constant", partitions=4, load_before=0.5)
    document = orjson.loads(orjson.dumps(document))
    (load,) = document["loads"]
    assert load["latency_ms"]["p50"] == pytest.approx(50, rel=0.01)
    assert load["latency_ms"]["p99"] == pytest.approx(99, rel=0.01)
    assert HdrHistogram.decode(load["hdr_us"]).get_total_count() == 100
    assert {"command", "date", "commit", "cpu", "cores"} <= document["taken"].keys()


def test_a_missing_score_shows_in_the_table() -> None:
    written = io.StringIO()
    Console(file=written, width=100).print(report.table([result(1000, missing=7)], title="t"))
    assert " 7 " in written.getvalue()
