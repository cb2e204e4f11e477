"""A replay without a broker: tape, port, sink and report over records made here."""

import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from rich.console import Console
from typer.testing import CliRunner

from worker import cli, events, scores
from worker.errors import CheckFailed, IntentError, SettingError
from worker.events import Event
from worker.replay.plan import Plan, Stretch
from worker.replay.report import Distribution, Report, Tally
from worker.replay.run import play
from worker.replay.sink import ParquetSink
from worker.replay.tape import Tape
from worker.replay.windows import State, throwaway
from worker.window import Rules

START_MS = 1_470_000_000_000
MODEL = scores.Model("fake", "1")


def record(offset: int, user: str, *, event_id: str | None = None, value: bytes | None = None) -> Message:
    """One event a second; the event id follows the offset."""
    time_ms = START_MS + offset * 1000
    event = Event(event_id=event_id or f"e{offset}", user_id=user, event_time=time_ms, type="view_item")
    value = events.encode(event) if value is None else value
    return Message("t", 0, offset, user.encode(), value, [], None, (1, time_ms))


def end_of_partition(offset: int) -> Message:
    return Message("t", 0, offset, error=KafkaError(KafkaError._PARTITION_EOF))


@dataclass
class FakeConsumer:
    """Hands out a script of fetches from the assigned offset on."""

    fetches: Sequence[Sequence[Message]]
    closed: bool = False
    assigned: list[TopicPartition] = field(default_factory=list)

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = partitions
        self._left = list(self.fetches)

    def consume(self, _count: int, _timeout_s: float) -> Sequence[Message]:
        (wanted,) = self.assigned
        fetch = self._left.pop(0) if self._left else []
        return [message for message in fetch if message.error() or (message.offset() or 0) >= wanted.offset]

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeScores:
    intent: np.ndarray
    risk: np.ndarray
    risk_reasons: np.ndarray
    reason_codes: np.ndarray
    reason_weights: np.ndarray
    model: scores.Model
    intent_percentile: np.ndarray | None = None


class FakeEngine:
    """30 min probability: the share of a full window. `ranks`: where each score stands, by a model that knows it."""

    def __init__(self, ranks: Sequence[float] | None = None) -> None:
        self.windows = 0
        self._ranks = ranks

    async def score(self, windows: Sequence[bytes]) -> FakeScores:
        self.windows += len(windows)
        rows = np.array([window[2] for window in windows], dtype=np.float32)
        n = len(rows)
        return FakeScores(
            intent=np.stack([rows / 64, rows / 128, rows / 256], axis=1),
            risk=np.full(n, 0.5, dtype=np.float32),
            risk_reasons=np.ones(n, dtype=np.uint8),
            reason_codes=np.tile(np.array([5, 255, 255], dtype=np.uint8), (n, 1)),
            reason_weights=np.tile(np.array([0.75, 0, 0], dtype=np.float32), (n, 1)),
            model=MODEL,
            intent_percentile=None if self._ranks is None else np.tile(np.array(self._ranks), (n, 1)),
        )


async def played(
    folder: Path,
    fetches: Sequence[Sequence[Message]],
    stretch: Stretch,
    *,
    state: State = "memory",
    mode: Any = "every",
    ranks: Sequence[float] | None = None,
) -> tuple[list[dict[str, Any]], Report, FakeEngine]:
    consumer = FakeConsumer(fetches)
    plan = Plan(topic="t", stretches=(stretch,))
    advanced: list[int] = []
    tally, engine, out = Tally(), FakeEngine(ranks), folder / "scores.parquet"
    with ParquetSink(out, topic="t", origin={"topic": "t"}) as sink:
        await play(
            plan,
            consumer=lambda: consumer,  # type: ignore[arg-type, return-value]  # what a tape uses of it
            engine=engine,
            sink=sink,
            tally=tally,
            rules=Rules(),
            mode=mode,
            state=state,
            advanced=advanced.append,
        )
    assert consumer.closed
    assert sum(advanced) == plan.offsets
    report = Report(plan=plan, mode=mode, model=MODEL, out=out, rows=sink.rows, tally=tally, elapsed_s=2.0)
    report.check()
    return pq.read_table(out).to_pylist(), report, engine


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


WHOLE = Stretch(partition=0, warm_from=0, start=0, end=6)
FETCH = [record(offset, "ann" if offset % 2 else "bob") for offset in range(6)]


@pytest.mark.parametrize("state", ["memory", "disk"])
async def test_every_event_gets_its_row(tmp_path: Path, state: State) -> None:
    rows, report, _ = await played(tmp_path, [FETCH[:4], [], FETCH[4:]], WHOLE, state=state)
    assert [(row["offset"], row["user_id"], row["window_events"]) for row in rows] == [
        (0, "bob", 1),
        (1, "ann", 1),
        (2, "bob", 2),
        (3, "ann", 2),
        (4, "bob", 3),
        (5, "ann", 3),
    ]
    first = rows[0]
    assert first["score_id"] == "t-0-0"
    assert first["purchase_30m"] == pytest.approx(1 / 64, abs=1e-6)
    assert first["risk_reasons"] == ["burst"]
    assert first["reasons"] == [{"code": "item_viewed_again", "weight": 0.75}]
    assert first["event_time"].timestamp() * 1000 == START_MS
    assert report.document()["fates"] == {"scored": 6}


@pytest.mark.parametrize("ranks", [None, (0.5, 0.625, 0.75)], ids=["no reference", "ranked"])
async def test_percentiles_are_the_scores(tmp_path: Path, ranks: tuple[float, ...] | None) -> None:
    (row,), _, _ = await played(tmp_path, [FETCH], Stretch(partition=0, warm_from=0, start=0, end=1), ranks=ranks)
    assert tuple(row[f"percentile_{horizon}"] for horizon in ("30m", "24h", "7d")) == (ranks or (None,) * 3)


async def test_warming_up_folds_and_publishes_nothing(tmp_path: Path) -> None:
    stretch = Stretch(partition=0, warm_from=1, start=4, end=6)
    rows, report, engine = await played(tmp_path, [FETCH], stretch)
    assert [(row["offset"], row["window_events"]) for row in rows] == [(4, 2), (5, 3)]
    assert (report.tally.warmed, report.tally.read, engine.windows) == (3, 2, 2)


@pytest.mark.parametrize("state", ["memory", "disk"])
async def test_who_was_erased_before_starts_afresh(tmp_path: Path, state: State) -> None:
    erase = Event(event_id="e1", user_id="ann", event_time=START_MS + 1000, type=events.ERASE)
    fetches = [[record(0, "ann")], [record(1, "ann", value=events.encode(erase))], [record(2, "ann")]]
    rows, _, _ = await played(tmp_path, fetches, Stretch(partition=0, warm_from=0, start=2, end=3), state=state)
    assert [(row["offset"], row["window_events"]) for row in rows] == [(2, 1)]


async def test_fates_are_the_workers(tmp_path: Path) -> None:
    fetch = [
        record(0, "ann"),
        record(1, "ann", event_id="e0"),
        record(2, "ann", value=b"{"),
        record(3, "ann"),
        record(4, "ann"),
        record(5, "bob"),
    ]
    rows, report, _ = await played(tmp_path, [fetch], WHOLE, mode="latest")
    assert report.document()["fates"] == {"coalesced": 2, "dead": 1, "duplicate": 1, "scored": 2}
    assert report.document()["dead_letters"] == {"json": 1}
    assert [row["offset"] for row in rows] == [4, 5]


@pytest.mark.parametrize(
    "fetches",
    [
        pytest.param([FETCH[:5], [record(9, "eve")]], id="a record behind the end"),
        pytest.param([FETCH[:5], [end_of_partition(8)]], id="the end of the partition"),
        pytest.param([[end_of_partition(3)], FETCH[:5], [end_of_partition(6)]], id="an end that moved on"),
    ],
)
async def test_markers_at_the_end_are_no_records(tmp_path: Path, fetches: list[list[Message]]) -> None:
    rows, _, _ = await played(tmp_path, fetches, WHOLE)  # offset 5 is a transaction marker
    assert len(rows) == 5


async def test_nothing_is_left_of_a_replay_that_fails(tmp_path: Path) -> None:
    refused = Message("t", 0, 2, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(IntentError, match="partition 0 of t cannot be read on"):
        await played(tmp_path, [FETCH[:2], [refused]], WHOLE)
    assert files(tmp_path) == []


FULL = """
import asyncio, pathlib, resource, sys
from tests.unit import test_replay as replay
from worker.errors import IntentError
from worker.replay import sink
from worker.replay.windows import throwaway

def full(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

folder = pathlib.Path(sys.argv[1])
try:
    {doing}
except IntentError as error:
    print(type(error).__name__, error)
full(resource.RLIM_INFINITY)  # whoever measures this program writes at its end
"""
"""A program on whose disk files end, as on a full one, where `doing` says so."""

ROWS = "full(100); asyncio.run(replay.played(folder, [replay.FETCH], replay.WHOLE, state={state!r}))"
FILLING = """
    with throwaway("disk") as windows:
        windows[b"a"] = b"1"
        full(100_000)
        for n in range(1000):
            windows[b"%d" % n] = bytes(1000)
"""


@pytest.mark.parametrize(
    ("doing", "says"),
    [
        pytest.param(ROWS.format(state="memory"), "IntentError --out is '.*scores.parquet'", id="at the end"),
        pytest.param(
            "sink.ROW_GROUP_ROWS = 1; " + ROWS.format(state="memory"), "IntentError --out is", id="on the way"
        ),
        pytest.param(ROWS.format(state="disk"), "IntentError --state disk .*intent-replay-.* TMPDIR", id="no windows"),
        pytest.param(FILLING, "IntentError --state disk .*intent-replay-.* TMPDIR", id="no more windows"),
    ],
)
def test_a_disk_that_is_full_is_a_sentence_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doing: str, says: str
) -> None:
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    out.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    command = [sys.executable, "-c", FULL.format(doing=doing), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert re.fullmatch(f"{says}.*\n", run.stdout), run.stdout
    assert "File too large" in run.stdout
    assert run.stderr == ""
    assert files(out) == files(temporary) == []


def test_a_file_that_cannot_take_its_place_is_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    with (
        pytest.raises(IntentError, match=r"--out is .*scores\.parquet.* which cannot be written"),
        ParquetSink(out, topic="t", origin={}),
    ):
        out.mkdir()
    assert files(tmp_path) == [out]


def test_of_two_replays_into_one_file_the_later_stands_whole(tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    with ParquetSink(out, topic="t", origin={"of": "one"}):
        with ParquetSink(out, topic="t", origin={"of": "two"}):
            pass
        assert json.loads(pq.read_schema(out).metadata[b"intent.replay"]) == {"of": "two"}
    assert json.loads(pq.read_schema(out).metadata[b"intent.replay"]) == {"of": "one"}
    assert files(tmp_path) == [out]


def test_windows_on_disk_without_a_place_for_them_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(IntentError, match=r"--state disk .* TMPDIR") as failed, throwaway("disk"):
        pass
    assert "absent" in str(failed.value)


async def test_headers_whose_names_are_no_text_are_left_out(tmp_path: Path) -> None:
    class Unreadable(Message):
        def headers(self) -> Any:
            raise SystemError("returned a result with an exception set")

    only = Unreadable("t", 0, 0, b"ann", record(0, "ann").value(), [], None, (1, START_MS))
    rows, _, _ = await played(tmp_path, [[only]], Stretch(partition=0, warm_from=0, start=0, end=1))
    assert [row["user_id"] for row in rows] == ["ann"]


async def test_a_batch_is_bounded_by_bytes_as_a_live_one_and_headers_are_read_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A header is two bytes on the wire, and a hundred in memory."""
    monkeypatch.setattr("worker.replay.tape.BATCH_BYTES", 1000)
    read: list[int] = []

    class Headed(Message):
        def headers(self) -> Any:
            read.append(self.offset() or 0)
            return super().headers()

    def headed(offset: int, count: int) -> Message:
        return Headed("t", 0, offset, b"", b"", [("", b"")] * count, None, (1, START_MS))

    fetch = [headed(offset, count) for offset, count in enumerate((3, 4, 1, 9, 0, 0))]
    tape = Tape(FakeConsumer([fetch]), "t", WHOLE)  # type: ignore[arg-type]  # what a tape uses of it
    assert [[one.offset for one in await tape.read(before=before)] for before in (6, 6, 6, 5, 6)] == [
        *([0, 1], [2], [3], [4], [5])
    ]
    read.clear()
    letters = iter(Tape(FakeConsumer([fetch]), "t", WHOLE))  # type: ignore[arg-type]  # likewise
    assert len(next(letters).headers) == 3
    assert read == [0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(None, r"; is its broker up\?", id="the topic is there"),
        pytest.param(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), ": the topic is gone", id="it is gone"),
        pytest.param(KafkaException(KafkaError(KafkaError._TRANSPORT)), r"; is its broker up\?", id="nobody answers"),
    ],
)
async def test_a_silent_broker_is_told_from_a_topic_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: KafkaError | KafkaException | None, said: str
) -> None:
    def listed(*_: object, **__: object) -> SimpleNamespace:
        if isinstance(error, KafkaException):
            raise error
        return SimpleNamespace(topics={"t": SimpleNamespace(error=error)})

    monkeypatch.setattr(FakeConsumer, "list_topics", listed, raising=False)
    with pytest.raises(IntentError, match="partition 0 of t sent nothing for 60 s" + said):
        await played(tmp_path, [FETCH[:2]], WHOLE)


async def test_an_empty_plan_gives_an_empty_file(tmp_path: Path) -> None:
    out = tmp_path / "none.parquet"
    with ParquetSink(out, topic="t", origin={"why": "empty"}):
        pass
    table = pq.read_table(out)
    assert table.num_rows == 0
    assert json.loads(table.schema.metadata[b"intent.replay"]) == {"why": "empty"}


def test_a_range_without_records_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.parquet"
    out.write_text("before")
    monkeypatch.setattr("worker.replay.lookup.look_up", lambda *_, **__: Plan(topic="t", stretches=()))
    monkeypatch.setattr("worker.kafka.topics.events_id", lambda _: "a-topic-id")
    run = CliRunner().invoke(cli.app, ["replay", "--from", "2999-01-01", "--out", str(out)])
    assert isinstance(run.exception, IntentError)
    assert "t holds no record from --from 2999-01-01 to --to latest" in str(run.exception)
    assert out.read_text() == "before"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--out is .*absent"):
        ParquetSink(tmp_path / "absent" / "f.parquet", topic="t", origin={})


def test_a_stop_while_the_file_is_opened_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, *_: Any, **__: Any) -> None:
        path.touch()
        raise SystemExit(143)

    monkeypatch.setattr(pq, "ParquetWriter", opened)
    with pytest.raises(SystemExit):
        ParquetSink(tmp_path / "f.parquet", topic="t", origin={})
    assert list(tmp_path.iterdir()) == []


def test_distribution() -> None:
    values = Distribution()
    assert values.summary() is None
    values.add([])
    values.add([i / 1000 for i in range(1000)])
    values.add([1.0])
    summary = values.summary()
    assert summary is not None
    assert summary["mean"] == pytest.approx(0.5, abs=1e-3)
    assert summary["p50"] == pytest.approx(0.5, abs=1e-4)
    assert summary["p99"] == pytest.approx(0.99, abs=1e-4)
    assert summary["max"] == 1.0


def test_a_report_that_does_not_add_up() -> None:
    tally = Tally(read=3)
    tally.fates.update(scored=2)
    report = Report(
        plan=Plan(topic="t", stretches=()), mode="every", model=MODEL, out=Path("f"), rows=2, tally=tally, elapsed_s=1.0
    )
    with pytest.raises(CheckFailed, match="3 records were read, 2 have a fate"):
        report.check()


def test_a_report_takes_a_path_for_what_it_is() -> None:
    """A folder may be named as a mark is, or in a way that steers a terminal."""
    out = Path("[/x]", "a\x1b[2J[bold].parquet")
    report = Report(
        plan=Plan(topic="t", stretches=()), mode="every", model=MODEL, out=out, rows=2, tally=Tally(), elapsed_s=1.0
    )
    shown = Console(width=160, file=io.StringIO())
    shown.print(report.table())
    assert isinstance(shown.file, io.StringIO)
    assert r"2 to [/x]/a\x1b[2J[bold].parquet" in shown.file.getvalue()


def test_a_report_names_partitions_whose_windows_may_hold_less_than_live() -> None:
    def report(*, cut: bool) -> Report:
        plan = Plan(topic="t", stretches=(Stretch(partition=3, warm_from=10, start=10, end=20, cut=cut),))
        return Report(plan=plan, mode="every", model=MODEL, out=Path("f"), rows=0, tally=Tally(), elapsed_s=1.0)

    for cut in (False, True):
        shown = Console(width=160, file=io.StringIO())
        shown.print(report(cut=cut).table())
        assert isinstance(shown.file, io.StringIO)
        assert ("earlier ones are deleted in" in shown.file.getvalue()) is cut
        assert report(cut=cut).document()["partitions_cut"] == [3] * cut


def test_consumer_is_what_the_fake_stands_for() -> None:
    assert all(hasattr(Consumer, name) for name in ("assign", "consume", "close"))
