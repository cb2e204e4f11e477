"""The order of the steps, written once: take, decode, fold, score, publish, store when due, done.

Live and replay share it; they differ in the `Port` they pass in. Owns the order in which effects become durable. Knows
neither Kafka, Faust, RocksDB nor torch.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat, starmap
from typing import Final, Protocol

import numpy as np
from msgspec import UNSET

from worker import window
from worker.cache import Cache, Changes
from worker.fold import Batch, Mode, Record, fold, sweep
from worker.ops.metrics import Metrics
from worker.scores import NO_REASON, REASONS, RISK_REASONS_OF_MASK, Intent, Model, Percentile, Rating, Reason, Risk
from worker.watermark import Watermark

_SMOOTHING: Final = 8
SWEEP_SHARE: Final = 32
"""For so many events one stored user is looked at: of a million, at 1,000 events/s, each every nine hours."""


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

    @property
    def model(self) -> Model:
        """What made all rows."""

    @property
    def intent_percentile(self) -> np.ndarray | None:
        """[n, 3] float64, short decimals; `None` where the model ranks nothing."""


class Engine(Protocol):
    """What scores windows."""

    async def score(self, windows: Sequence[bytes]) -> EngineScores:
        """Row i is window i's. An error is that of these windows alone."""


class Port(Protocol):
    """One source partition's edges. Live: a Kafka transaction and RocksDB. Replay: a range of a topic and a file."""

    async def take(self, early_s: float) -> Sequence[Record]:
        """What has arrived, contiguous with what came before; waits for the first record, and for nothing more once
        `early_s` are over or a batch is full. Empty at the end of the input.
        """

    def window(self, key: bytes) -> bytes | None:
        """The user's stored window."""

    def browse(self, count: int) -> Iterable[tuple[bytes, bytes]]:
        """Up to `count` stored users and their windows; further calls go on from there, and round again."""

    async def publish(self, batch: Batch, ratings: Sequence[Rating]) -> int:
        """All of the batch, visible together or not at all; its changelog's end offset. Bounded in time."""

    def store(self, windows: Changes, watermark: Watermark, changelog_offset: int) -> None:
        """Windows, watermark and changelog offset, as one write. Only ever what was published."""

    def done(self, batch: Batch, ratings: Sequence[Rating]) -> None:
        """The batch is durable: time for what may be lost."""


def ratings(scores: EngineScores) -> list[Rating]:
    """Arrays to rows; 6 decimals, which is finer than what the engine promises to repeat."""
    intent, risk = (np.round(part.astype(np.float64), 6).tolist() for part in (scores.intent, scores.risk))
    weights = np.round(scores.reason_weights.astype(np.float64), 4).tolist()
    reasons = [
        tuple([Reason(REASONS[code], weight) for code, weight in zip(*row, strict=True) if code != NO_REASON])
        for row in zip(scores.reason_codes.tolist(), weights, strict=True)
    ]
    ranks = scores.intent_percentile
    return list(
        map(
            Rating,
            starmap(Intent, intent),
            map(Risk, risk, map(RISK_REASONS_OF_MASK.__getitem__, scores.risk_reasons.tolist())),
            reasons,
            repeat(scores.model),
            repeat(UNSET) if ranks is None else starmap(Percentile, ranks.tolist()),
        )
    )


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
    commit_interval_s: float = 0.0,
) -> None:
    """One partition's ordered loop, until its input ends.

    A batch is folded and scored while the one before it is still in its transaction, and taken as late as that allows:
    what arrives meanwhile need not wait for a third. Transactions run one at a time, in order, and one begins no sooner
    than `commit_interval_s` after the one before unless its batch is full: each costs the brokers the same, however
    little is in it. Any error leaves the loop with its batch committed whole, or not at all; `failed` hears at once of
    one in the background, since the loop itself may be waiting for input. When the loop is cancelled, what is not
    committed yet is given up; a commit under way goes on to its end, for which the loop waits.
    """
    cache = Cache(port.window)
    committing: asyncio.Task[float] | None = None
    pace = _Pace(commit_interval_s)
    watermark = start

    async def end() -> None:
        if committing is not None:
            await _finished(committing)
        cache.write(port.store)

    try:
        while True:
            if committing is not None and pace.spare_s > 0:
                await asyncio.wait([committing], timeout=pace.spare_s)
            records = await port.take(pace.early_s)
            if not records:
                break
            taken = time.perf_counter()
            batch = fold(records, windows=cache.window, start=watermark, rules=rules, mode=mode)
            sweep(batch, port.browse(1 + len(records) // SWEEP_SHARE), windows=cache.window, rules=rules)
            cache.add(batch.changed)
            watermark = batch.watermark
            rated: list[Rating] = []
            if batch.updated:
                begin = time.perf_counter()
                rated = ratings(await engine.score([update.window for update in batch.updated]))
                metrics.score_seconds.observe(time.perf_counter() - begin)
            pace.prepared(time.perf_counter() - taken)
            if committing is not None:
                pace.committed(await _finished(committing))
            pace.begun()
            committing = asyncio.create_task(_commit(port, batch, rated, cache=cache, metrics=metrics, now_ms=now_ms))
            committing.add_done_callback(lambda task: _tell(task, failed))
        await end()
    except asyncio.CancelledError:
        await end()
        raise


class _Pace:
    """How long a batch is prepared and committed, smoothed; and how long ago the last commit began."""

    def __init__(self, commit_interval_s: float) -> None:
        self._interval_s = commit_interval_s
        self._prepare_s = 0.0
        self._commit_s = 0.0
        self._begun_s = -math.inf

    @property
    def spare_s(self) -> float:
        """How long after the begin of a commit there is still time to prepare the next batch before it ends."""
        return self._commit_s - self._prepare_s

    @property
    def early_s(self) -> float:
        """For so long the next batch, were it taken now, would be ready before its commit may begin."""
        return self._begun_s + self._interval_s - self._prepare_s - time.perf_counter()

    def begun(self) -> None:
        """A commit begins now."""
        self._begun_s = time.perf_counter()

    def prepared(self, took_s: float) -> None:
        """A batch was folded and scored."""
        self._prepare_s += (took_s - self._prepare_s) / _SMOOTHING

    def committed(self, took_s: float) -> None:
        """A batch was published."""
        self._commit_s += (took_s - self._commit_s) / _SMOOTHING


async def _commit(
    port: Port, batch: Batch, rated: Sequence[Rating], *, cache: Cache, metrics: Metrics, now_ms: Callable[[], int]
) -> float:
    """Publish, then store if due, then tell: local state is never ahead of what readers and the next owner can see.

    Answers how many seconds that took.
    """
    begin = time.perf_counter()
    changelog_offset = await port.publish(batch, rated)
    metrics.transaction_seconds.observe(time.perf_counter() - begin)
    cache.published(batch, changelog_offset)
    if cache.due:
        cache.write(port.store)
    port.done(batch, rated)
    metrics.count_fates(batch.fates)
    metrics.scores_total.inc(len(batch.updated))
    for reason, count in Counter(rejected.reason for rejected in batch.rejected).items():
        metrics.dead_letters_total.labels(reason=reason).inc(count)
    metrics.batch_events.observe(len(batch.timestamps))
    sent = np.asarray(batch.timestamps)
    metrics.event_to_score_seconds.observe((now_ms() - sent[sent >= 0]) / 1000)  # a record without a timestamp has -1
    return time.perf_counter() - begin


async def _finished(committing: asyncio.Task[float]) -> float:
    await asyncio.wait([committing])  # unlike `await committing`: cancelling this wait leaves the commit alone
    return committing.result()


def _tell(task: asyncio.Task[float], failed: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        failed(error)
