"""The order of the steps: fates, publish before store, one commit at a time, nothing after a failure."""

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from worker import cache, window
from worker.cache import Cache, Changes
from worker.errors import Fatal, Invalid
from worker.fold import Batch, Mode, Record, Unread, fold, sweep
from worker.ops.metrics import Metrics
from worker.pipeline import SWEEP_SHARE, ratings, run
from worker.scores import Intent, Model, Percentile, Rating, Reason, Risk
from worker.scoring.answer import Scores
from worker.watermark import Watermark
from worker.window import Rules

T = 1_700_000_000_000
DAY = 86_400_000


@dataclass(frozen=True)
class Rec:
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = T + 100 * DAY
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def rec(offset: int, user: str = "u", time_ms: int | None = None, **fields: Any) -> Rec:
    event_time = T + offset if time_ms is None else time_ms
    body = {"event_id": f"e{offset}", "user_id": user, "event_time": event_time, "type": "page_view"} | fields
    return Rec(offset, user.encode(), json.dumps(body).encode())


def folded(records: Sequence[Record], *, mode: Mode = "every", start: Watermark | None = None) -> Batch:
    table: dict[bytes, bytes] = {}
    return fold(records, windows=table.get, start=start or Watermark(), rules=Rules(), mode=mode)


def test_each_record_has_one_fate() -> None:
    batch = folded(
        [
            rec(0),
            rec(1, event_id="e0"),
            rec(2, time_ms=T - DAY),
            Rec(3, b"u", b"{"),
            rec(4, type="user.erase"),
            rec(5),
        ]
    )
    assert +batch.fates == {"scored": 2, "duplicate": 1, "late": 1, "dead": 1, "erased": 1}
    assert [rejected.reason for rejected in batch.rejected] == ["late", "json"]
    assert batch.watermark == Watermark(5, T + 5)
    after = batch.changed[b"u"]
    assert after is not None
    assert window.length(after) == 1
    assert batch.latest == {b"u": 1}


@pytest.mark.parametrize(
    ("behind_ms", "rules", "told"),
    [
        pytest.param(DAY, Rules(), "86400 s before the user's newest; 600 s are allowed", id="a day"),
        pytest.param(
            2_700, Rules(max_lateness_ms=1_400), "3 s before the user's newest; 1 s are allowed", id="to the nearest s"
        ),
    ],
)
def test_a_late_event_is_told_how_far_it_was_behind(behind_ms: int, rules: Rules, told: str) -> None:
    records = [rec(0, time_ms=T), rec(1, time_ms=T - behind_ms)]
    batch = fold(records, windows=lambda _: None, start=Watermark(), rules=rules, mode="every")
    (late,) = batch.rejected
    assert late == (records[1], "fold", "late", f"event time is {told}")


def test_a_record_that_was_not_read_is_dead_for_its_own_reason() -> None:
    why = Invalid("too_large", "its batch is too large")
    unread: list[Record] = [Unread(offset, T, 300, why) for offset in (1, 2)]
    batch = folded([rec(0), *unread, rec(3)])
    assert +batch.fates == {"scored": 2, "dead": 2}
    assert [rejected[1:] for rejected in batch.rejected] == [("decode", "too_large", "its batch is too large")] * 2
    assert batch.watermark == Watermark(3, T + 3)


def test_an_erased_user_is_a_tombstone() -> None:
    batch = folded([rec(0), rec(1, type="user.erase")])
    assert batch.changed == {b"u": None}
    assert batch.latest == {b"u": None}
    assert len(batch.updated) == 1


def test_mode_latest_scores_a_users_newest_window_only() -> None:
    records = [rec(0, "a"), rec(1, "b"), rec(2, "a"), rec(3, "a", type="user.erase"), rec(4, "b")]
    every, latest = folded(records), folded(records, mode="latest")
    assert [update.record.offset for update in every.updated] == [0, 1, 2, 4]
    assert [update.record.offset for update in latest.updated] == [2, 4]
    assert latest.fates == {"scored": 2, "coalesced": 2, "erased": 1}
    assert latest.latest == {b"a": None, b"b": 1}
    assert latest.changed == every.changed


def test_a_user_silent_for_over_35_days_starts_afresh_whoever_moved_the_clock() -> None:
    batch = folded([rec(0, "a"), rec(1, "b", time_ms=T + 36 * DAY), rec(2, "a", event_id="e0", time_ms=T + 1)])
    assert batch.fates["scored"] == 3  # neither duplicate nor late: nothing of the user is left
    after = batch.changed[b"a"]
    assert after is not None
    assert window.length(after) == 1


def test_offsets_that_are_done_are_refused() -> None:
    with pytest.raises(Fatal, match="offset 3"):
        folded([rec(3)], start=Watermark(3, T))


def test_what_is_done_stays_that_of_its_topic() -> None:
    assert folded([rec(4)], start=Watermark(3, T, "topic")).watermark == Watermark(4, T + 4, "topic")


def test_a_sweep_removes_the_expired_and_nobody_whom_a_later_batch_has_seen() -> None:
    old = folded([rec(0, "gone"), rec(1, "back"), rec(2, "here")])
    stored = {key: after for key, after in old.changed.items() if after is not None}
    recent = Cache(stored.get)
    recent.add(folded([rec(3, "back", time_ms=T + 36 * DAY)]).changed)
    batch = folded([rec(4, "here", time_ms=T + 36 * DAY)])
    sweep(batch, stored.items(), windows=recent.window, rules=Rules())
    assert batch.changed[b"gone"] is None
    assert batch.latest == {b"gone": None, b"here": 0}
    assert batch.changed.keys() == {b"gone", b"here"}
    assert batch.changed[b"here"] is not None  # silent as stored, back in this very batch
    assert +batch.fates == {"scored": 1}


class Engine:
    """Scores a window by its length; fails on the n-th call."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls = 0
        self._fail_at = fail_at

    async def score(self, windows: Sequence[bytes]) -> Scores:
        self.calls += 1
        if self.calls == self._fail_at:
            raise RuntimeError("device lost")
        lengths = np.array([[window.length(one) / 100] * 3 for one in windows], np.float32)
        n = len(windows)
        none = np.full((n, 3), 255, np.uint8)
        return Scores(
            lengths, np.zeros(n, np.float32), np.zeros(n, np.uint8), none, np.zeros((n, 3), np.float32), Model("m", "1")
        )


class Port:
    """Hands out batches and writes down what happens, in order."""

    def __init__(self, *batches: list[Rec], fail_at: int | None = None) -> None:
        self.batches = list(batches)
        self.said: list[str] = []
        self.table: dict[bytes, bytes] = {}
        self.ratings: list[Rating] = []
        self.open = 0
        self.opened, self.closed = asyncio.Event(), asyncio.Event()
        self.early_s: list[float] = []
        self._fail_at = fail_at
        self._published = 0

    async def take(self, early_s: float) -> Sequence[Record]:
        self.early_s.append(early_s)
        await asyncio.sleep(0)
        return self.batches.pop(0) if self.batches else []

    def window(self, key: bytes) -> bytes | None:
        return self.table.get(key)

    def browse(self, count: int) -> Iterable[tuple[bytes, bytes]]:
        return list(self.table.items())[:count]

    async def publish(self, batch: Batch, ratings: Sequence[Rating]) -> int:
        assert self.open == 0, "one transaction at a time"
        self.open += 1
        self.opened.set()
        self._published += 1
        for _ in range(5):
            await asyncio.sleep(0)
        if self._published == self._fail_at:
            raise RuntimeError("fenced")
        self.open -= 1
        self.ratings += ratings
        self.said.append(f"publish {batch.watermark.offset}")
        return 100 + batch.watermark.offset

    def store(self, windows: Changes, watermark: Watermark, changelog_offset: int) -> None:
        assert changelog_offset == 100 + watermark.offset
        self.said.append(f"store {changelog_offset}")
        self.table.update({key: after for key, after in windows.items() if after is not None})

    def done(self, batch: Batch, ratings: Sequence[Rating]) -> None:
        assert len(ratings) == len(batch.updated)
        self.said.append(f"done {batch.watermark.offset}")
        self.closed.set()


async def play(
    port: Port, engine: Engine, failures: list[BaseException] | None = None, *, commit_interval_s: float = 0.0
) -> Metrics:
    metrics = Metrics(CollectorRegistry())
    failed = (failures if failures is not None else []).append
    await run(
        port,
        engine=engine,
        start=Watermark(),
        rules=Rules(),
        mode="every",
        metrics=metrics,
        now_ms=lambda: T,
        failed=failed,
        commit_interval_s=commit_interval_s,
    )
    return metrics


async def test_a_batch_is_early_until_the_interval_since_the_last_commit_s_begin_is_over() -> None:
    port = Port([rec(0)], [rec(1)])
    await play(port, Engine(), commit_interval_s=60.0)
    first, second, _ = port.early_s
    assert first < 0, "nothing was committed before"
    assert 50 < second <= 60
    port = Port([rec(0)], [rec(1)])
    await play(port, Engine())
    assert max(port.early_s) < 0


@pytest.mark.parametrize(
    ("prepare_s", "published"),
    [
        pytest.param(0.0, [0, 0, 2], id="a commit takes longer: what arrives during it goes along"),
        pytest.param(16.0, [0, 0, 1], id="preparing takes longer: at once"),
    ],
)
async def test_a_batch_is_taken_as_late_as_the_commit_before_it_allows(
    prepare_s: float, published: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how long batches before it took, so that the first two are taken at once."""
    now, seen = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(Port):
        async def take(self, early_s: float) -> Sequence[Record]:
            seen.append(len(self.ratings))
            return await super().take(early_s)

        async def publish(self, batch: Batch, ratings: Sequence[Rating]) -> int:
            now[0] += 8.0
            return await super().publish(batch, ratings)

    class Thoughtful(Engine):
        async def score(self, windows: Sequence[bytes]) -> Scores:
            now[0] += prepare_s
            return await super().score(windows)

    await play(Slow([rec(0)], [rec(1)], [rec(2)]), Thoughtful())
    assert seen[:3] == published


async def test_publish_store_done_in_order_and_windows_carry_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WRITE_S", 0)
    port = Port([rec(0), rec(1)], [rec(2)], [rec(3), Rec(4, b"u", b"")])
    metrics = await play(port, Engine())
    assert port.said == [
        *("publish 1", "store 101", "done 1"),
        *("publish 2", "store 102", "done 2"),
        *("publish 4", "store 104", "done 4"),
    ]
    assert [rating.intent.purchase_30m for rating in port.ratings] == [0.01, 0.02, 0.03, 0.04]
    assert metrics.registry.get_sample_value("intent_events_total", {"fate": "scored"}) == 4
    assert metrics.registry.get_sample_value("intent_dead_letters_total", {"reason": "json"}) == 1
    for name, value in {
        "intent_scores_total": 4,
        "intent_batch_events_count": 3,
        "intent_batch_events_sum": 5,
        "intent_score_seconds_count": 3,
        "intent_transaction_seconds_count": 3,
    }.items():
        assert metrics.registry.get_sample_value(name) == value, name


async def test_one_stored_user_is_looked_at_and_one_more_for_each_share_of_events() -> None:
    looked_at = []

    class Browsed(Port):
        def browse(self, count: int) -> Iterable[tuple[bytes, bytes]]:
            looked_at.append(count)
            return super().browse(count)

    sizes = [1, SWEEP_SHARE - 1, SWEEP_SHARE, 2 * SWEEP_SHARE + 1]
    firsts = [sum(sizes[:place]) for place in range(len(sizes))]
    await play(
        Browsed(*([rec(first + n) for n in range(size)] for first, size in zip(firsts, sizes, strict=True))), Engine()
    )
    assert looked_at == [1, 1, 2, 3]


async def test_latency_is_that_of_records_with_a_timestamp() -> None:
    """Of one without, which is a dead letter, it would be half a million hours."""
    port = Port([replace(rec(0), timestamp=-1), replace(rec(1), timestamp=T - 250)])
    metrics = await play(port, Engine())
    value = metrics.registry.get_sample_value
    assert value("intent_event_to_score_seconds_count") == 1
    assert value("intent_event_to_score_seconds_sum") == 0.25
    assert value("intent_dead_letters_total", {"reason": "future"}) == 1


def test_rows_say_what_the_arrays_say_and_percentiles_only_where_something_ranks() -> None:
    model = Model("m", "1")
    two = Scores(
        np.array([[0.1, 0.2, 0.3], [0.1234567, 0.2, 0.3]], np.float32),
        np.array([0.0, 0.7], np.float32),
        np.array([0, 0b10000010], np.uint8),
        np.array([[255, 255, 255], [3, 11, 255]], np.uint8),
        np.array([[0, 0, 0], [0.5, -0.25001, 0]], np.float32),
        model,
    )
    first, second = (
        Rating(Intent(0.1, 0.2, 0.3), Risk(0.0, ()), (), model),
        Rating(
            Intent(0.123457, 0.2, 0.3),
            Risk(0.7, ("machine_pace", "overlapping_sessions")),
            (Reason("cart_added", 0.5), Reason("promotion_selected", -0.25)),
            model,
        ),
    )
    assert ratings(two) == [first, second]
    ranked = replace(two, intent_percentile=np.array([[0.001, 0.5, 1.0], [0.2, 0.3, 0.4]]))
    assert ratings(ranked) == [
        structs.replace(first, intent_percentile=Percentile(0.001, 0.5, 1.0)),
        structs.replace(second, intent_percentile=Percentile(0.2, 0.3, 0.4)),
    ]


async def test_what_is_not_due_is_stored_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WRITE_S", 3600)
    port = Port([rec(0)], [rec(1)], [rec(2)])
    await play(port, Engine())
    assert port.said == ["publish 0", "store 100", "done 0", "publish 1", "done 1", "publish 2", "done 2", "store 102"]


async def test_a_batch_without_windows_asks_the_engine_nothing() -> None:
    engine = Engine()
    port = Port([Rec(0, b"u", b"")])
    await play(port, engine)
    assert engine.calls == 0
    assert port.said[0] == "publish 0"


async def test_a_failed_scorer_leaves_its_batch_unpublished() -> None:
    port = Port([rec(0)], [rec(1)], [rec(2)])
    with pytest.raises(RuntimeError, match="device lost"):
        await play(port, Engine(fail_at=2))
    assert set(port.said) <= {"publish 0", "store 100", "done 0"}


async def test_a_failed_commit_stores_nothing_and_is_told_at_once() -> None:
    port = Port([rec(0)], [rec(1)], [rec(2)], fail_at=2)
    failures: list[BaseException] = []
    with pytest.raises(RuntimeError, match="fenced"):
        await play(port, Engine(), failures)
    assert port.said == ["publish 0", "store 100", "done 0"]
    assert [str(error) for error in failures] == ["fenced"]


class Stuck(Engine):
    """Answers the n-th call never."""

    def __init__(self, stuck_at: int) -> None:
        super().__init__()
        self._stuck_at = stuck_at
        self.stuck = asyncio.Event()

    async def score(self, windows: Sequence[bytes]) -> Scores:
        if self.calls + 1 == self._stuck_at:
            self.stuck.set()
            await asyncio.Event().wait()
        return await super().score(windows)


async def test_a_cancelled_loop_gives_up_what_waits_for_its_scores_and_ends_after_the_commit_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "WRITE_S", 3600)
    port, engine = Port([rec(0)], [rec(1)], [rec(2)]), Stuck(3)
    loop = asyncio.ensure_future(play(port, engine))
    await engine.stuck.wait()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    assert port.said == ["publish 0", "store 100", "done 0", "publish 1", "done 1", "store 101"]


@pytest.mark.parametrize("batches", [1, 2], ids=["that has no more input", "with another batch ready"])
async def test_a_cancelled_loop_ends_after_the_commit_under_way(batches: int) -> None:
    port = Port(*([rec(number)] for number in range(batches)))
    loop = asyncio.ensure_future(play(port, Engine()))
    await port.opened.wait()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    assert port.said == ["publish 0", "store 100", "done 0"]
