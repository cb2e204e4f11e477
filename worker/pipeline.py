"""The order of the steps, written once: take, decode, fold, score, publish, store, done.

Live and replay share it; they differ in the `Port` they pass in. Owns what a batch is, each event's fate and the order
in which effects become durable. Knows neither Kafka, Faust, RocksDB nor torch.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np

from worker import events, facts, window
from worker.errors import Fatal, Invalid
from worker.ops.metrics import Metrics
from worker.scores import Headers, Rating
from worker.watermark import Watermark

Mode = Literal["every", "latest"]
LATE: Final = "late"
_SMOOTHING: Final = 8
SWEEP_SHARE: Final = 8
"""For so many events one stored user is looked at: of a million, at 1,000 events/s, each every two hours."""


class Record(Protocol):
    """One source record, as a consumer hands it out."""

    @property
    def offset(self) -> int:
        """In its partition."""

    @property
    def timestamp(self) -> int:
        """The record's own, UTC ms."""

    @property
    def key(self) -> bytes | None:
        """Raw."""

    @property
    def value(self) -> bytes | None:
        """Raw."""

    @property
    def headers(self) -> Headers:
        """Raw."""


class EngineScores(Protocol):
    """The engine's answer for n windows, row by row."""

    @property
    def intent(self) -> np.ndarray:
        """[n, 3] float32."""

    @property
    def risk(self) -> np.ndarray:
        """[n] float32."""

    @property
    def risk_reasons(self) -> np.ndarray:
        """[n] uint8."""

    @property
    def reason_codes(self) -> np.ndarray:
        """[n, 3] uint8."""

    @property
    def reason_weights(self) -> np.ndarray:
        """[n, 3] float32."""


class Engine(Protocol):
    """What scores windows."""

    async def score(self, windows: Sequence[bytes]) -> EngineScores:
        """Row i is window i's. An error is that of these windows alone."""


class Updated(NamedTuple):
    """An event that folded, and the window right after it."""

    record: Record
    event: events.Event
    window: bytes


class Rejected(NamedTuple):
    """A record for the dead-letter topic."""

    record: Record
    stage: str
    reason: str
    message: str


@dataclass(slots=True)
class Batch:
    """Everything that one transaction makes visible, and what it leaves behind."""

    updated: list[Updated] = field(default_factory=list)
    """To be scored, in offset order."""
    changed: dict[bytes, bytes | None] = field(default_factory=dict)
    """User key to new window, `None` for a user who was erased or has expired."""
    latest: dict[bytes, int | None] = field(default_factory=dict)
    """User key to the place in `updated` of the newest score, `None` for a user who was erased or has expired."""
    rejected: list[Rejected] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    watermark: Watermark = field(default_factory=Watermark)
    timestamps: list[int] = field(default_factory=list)
    """The source records' own, in ms."""


class Port(Protocol):
    """One source partition's edges. Live: a Kafka transaction and RocksDB. Replay: a range of a topic and a file."""

    async def take(self) -> Sequence[Record]:
        """What has arrived, contiguous with what came before; waits for the first record, and for nothing more.
        Empty at the end of the input.
        """

    def window(self, key: bytes) -> bytes | None:
        """The user's stored window."""

    def browse(self, count: int) -> Iterable[tuple[bytes, bytes]]:
        """Up to `count` stored users and their windows; further calls go on from there, and round again."""

    async def publish(self, batch: Batch, ratings: Sequence[Rating]) -> int:
        """All of the batch, visible together or not at all; its changelog's end offset. Bounded in time."""

    def store(self, batch: Batch, changelog_offset: int) -> None:
        """Windows, watermark and changelog offset, as one write. Only ever after `publish`."""

    def done(self, batch: Batch) -> None:
        """The batch is durable."""


class Overlay:
    """Windows of batches that are published but not yet stored, over those that are."""

    def __init__(self, stored: Callable[[bytes], bytes | None]) -> None:
        self._stored = stored
        self._changed: dict[bytes, bytes | None] = {}

    def window(self, key: bytes) -> bytes | None:
        """The user's window as of the last batch."""
        try:
            return self._changed[key]
        except KeyError:
            return self._stored(key)

    def add(self, changed: dict[bytes, bytes | None]) -> None:
        """Show a batch's windows to the batches behind it."""
        self._changed.update(changed)

    def settle(self, changed: dict[bytes, bytes | None]) -> None:
        """The batch is stored: forget what no later batch has replaced."""
        mine = self._changed
        for key, value in changed.items():
            if mine.get(key, mine) is value:
                del mine[key]


def fold(
    records: Sequence[Record],
    *,
    windows: Callable[[bytes], bytes | None],
    start: Watermark,
    rules: window.Rules,
    mode: Mode,
) -> Batch:
    """Records of one partition, in offset order and all above `start`, to a batch. Pure.

    Every record gets one fate; nothing but `Fatal` (a damaged window) is raised.
    """
    if records[0].offset <= start.offset:
        raise Fatal(f"offset {records[0].offset} was read again though {start.offset} is done")
    batch = Batch(timestamps=[record.timestamp for record in records])
    changed, latest, updated = batch.changed, batch.latest, batch.updated
    dead = erased = duplicate = late = 0
    newest_ms = start.newest_ms
    for record in records:
        key = record.key
        try:
            event = events.decode(record.value, key=key, timestamp_ms=record.timestamp)
        except Invalid as error:
            batch.rejected.append(Rejected(record, "decode", error.reason, str(error)))
            dead += 1
            continue
        assert key is not None  # it is the event's `user_id`
        fact = facts.of(event)
        newest_ms = max(newest_ms, fact.time_ms)
        if event.type == events.ERASE:
            changed[key] = latest[key] = None
            erased += 1
            continue
        before = changed[key] if key in changed else windows(key)
        if before is not None and window.expired(before, partition_newest_ms=newest_ms, rules=rules):
            before = None
        outcome, after = window.fold(before, fact, rules=rules)
        if outcome is window.Outcome.FOLDED:
            changed[key] = after
            latest[key] = len(updated)
            updated.append(Updated(record, event, after))
        elif outcome is window.Outcome.DUPLICATE:
            duplicate += 1
        else:
            behind_s, allowed_s = (window.newest_ms(after) - fact.time_ms) / 1000, rules.max_lateness_ms / 1000
            message = f"event time is {behind_s:.0f} s before the user's newest; {allowed_s:.0f} s are allowed"
            batch.rejected.append(Rejected(record, "fold", LATE, message))
            late += 1
    batch.fates = +Counter(dead=dead, erased=erased, duplicate=duplicate, late=late)
    _coalesce(batch, mode)
    batch.watermark = Watermark(records[-1].offset, newest_ms)
    return batch


def sweep(batch: Batch, stored: Iterable[tuple[bytes, bytes]], *, windows: Overlay, rules: window.Rules) -> None:
    """Remove those of the stored users who have expired by the batch's event time.

    Changes no outcome: `fold` drops an expired window anyway when its user comes back; this frees the space of those
    who do not.
    """
    for key, _ in stored:
        if key in batch.changed:
            continue
        current = windows.window(key)  # a later batch than the stored one may have changed it
        if current is not None and window.expired(current, partition_newest_ms=batch.watermark.newest_ms, rules=rules):
            batch.changed[key] = batch.latest[key] = None


def _coalesce(batch: Batch, mode: Mode) -> None:
    """In mode `latest` only the updates that no later one of the same user replaced keep their place."""
    total = len(batch.updated)
    if mode == "latest":
        newest = {update.event.user_id: update for update in batch.updated}
        batch.updated[:] = [update for update in batch.updated if newest[update.event.user_id] is update]
        places = {update.event.user_id.encode(): place for place, update in enumerate(batch.updated)}
        for key, place in batch.latest.items():
            if place is not None:
                batch.latest[key] = places[key]
    batch.fates["scored"] = len(batch.updated)
    batch.fates["coalesced"] = total - len(batch.updated)


def ratings(scores: EngineScores) -> list[Rating]:
    """Arrays to rows; 6 decimals, which is finer than what the engine promises to repeat."""
    rounded = [np.round(part.astype(np.float64), 6).tolist() for part in (scores.intent, scores.risk)]
    weights = np.round(scores.reason_weights.astype(np.float64), 4).tolist()
    rows = zip(*rounded, scores.risk_reasons.tolist(), scores.reason_codes.tolist(), weights, strict=True)
    return list(starmap(Rating, rows))


async def run(
    port: Port,
    *,
    engine: Engine,
    start: Watermark,
    rules: window.Rules,
    mode: Mode,
    metrics: Metrics,
    now_ms: Callable[[], int],
    failed: Callable[[BaseException], None],
) -> None:
    """One partition's ordered loop, until its input ends.

    A batch is folded and scored while the one before it is still in its transaction, and taken as late as that allows:
    what arrives meanwhile need not wait for a third. Transactions run one at a time, in order. Any error leaves the
    loop with nothing of its batch committed; `failed` hears at once of one in the background, since the loop itself may
    be waiting for input. When the loop is cancelled, a commit under way goes on to its end.
    """
    overlay = Overlay(port.window)
    committing: asyncio.Task[float] | None = None
    pace = _Pace()
    watermark = start
    while True:
        if committing is not None and pace.spare_s > 0:
            await asyncio.wait([committing], timeout=pace.spare_s)
        records = await port.take()
        if not records:
            break
        taken = time.perf_counter()
        batch = fold(records, windows=overlay.window, start=watermark, rules=rules, mode=mode)
        sweep(batch, port.browse(1 + len(records) // SWEEP_SHARE), windows=overlay, rules=rules)
        overlay.add(batch.changed)
        watermark = batch.watermark
        rated: list[Rating] = []
        if batch.updated:
            begin = time.perf_counter()
            rated = ratings(await engine.score([update.window for update in batch.updated]))
            metrics.score_seconds.observe(time.perf_counter() - begin)
        pace.prepared(time.perf_counter() - taken)
        if committing is not None:
            pace.committed(await _finished(committing))
        committing = asyncio.create_task(_commit(port, batch, rated, overlay=overlay, metrics=metrics, now_ms=now_ms))
        committing.add_done_callback(lambda task: _tell(task, failed))
    if committing is not None:
        await _finished(committing)


class _Pace:
    """How long a batch is prepared and committed, smoothed."""

    def __init__(self) -> None:
        self._prepare_s = 0.0
        self._commit_s = 0.0

    @property
    def spare_s(self) -> float:
        """How long after the begin of a commit there is still time to prepare the next batch before it ends."""
        return self._commit_s - self._prepare_s

    def prepared(self, took_s: float) -> None:
        """A batch was folded and scored."""
        self._prepare_s += (took_s - self._prepare_s) / _SMOOTHING

    def committed(self, took_s: float) -> None:
        """A batch was published and stored."""
        self._commit_s += (took_s - self._commit_s) / _SMOOTHING


async def _commit(
    port: Port, batch: Batch, rated: Sequence[Rating], *, overlay: Overlay, metrics: Metrics, now_ms: Callable[[], int]
) -> float:
    """Publish, then store, then tell: local state is never ahead of what readers and the next owner can see.

    Answers how many seconds that took.
    """
    begin = time.perf_counter()
    changelog_offset = await port.publish(batch, rated)
    metrics.transaction_seconds.observe(time.perf_counter() - begin)
    port.store(batch, changelog_offset)
    overlay.settle(batch.changed)
    port.done(batch)
    metrics.count_fates(batch.fates)
    metrics.scores_total.inc(len(batch.updated))
    for reason, count in Counter(rejected.reason for rejected in batch.rejected).items():
        metrics.dead_letters_total.labels(reason=reason).inc(count)
    metrics.batch_events.observe(len(batch.timestamps))
    metrics.event_to_score_seconds.observe((now_ms() - np.asarray(batch.timestamps)) / 1000)
    return time.perf_counter() - begin


async def _finished(committing: asyncio.Task[float]) -> float:
    await asyncio.wait([committing])  # unlike `await committing`: cancelling this wait leaves the commit alone
    return committing.result()


def _tell(task: asyncio.Task[float], failed: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        failed(error)
