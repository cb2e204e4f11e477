"""Runs a plan: each partition's stretch through `worker.pipeline`, into one sink.

Owns the replay's edges (a `Port` without Kafka behind it, the order of partitions). The engine, the consumers and the
sink are handed in. No clock decides anything here: the same range gives the same scores.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from confluent_kafka import Consumer
from prometheus_client import CollectorRegistry

from worker import pipeline
from worker.cache import Changes
from worker.fold import Batch, Mode, Record, fold
from worker.ops.metrics import Metrics
from worker.pipeline import Engine
from worker.replay.plan import Plan, Stretch
from worker.replay.report import Tally
from worker.replay.tape import Tape
from worker.replay.windows import State, Windows, throwaway
from worker.scores import Rating
from worker.watermark import Watermark
from worker.window import Rules

PARTITIONS_AT_ONCE: Final = 4
"""So that one partition folds while another waits for its scores; each holds its windows in memory."""


class Sink(Protocol):
    """Where scores go; `worker.replay.sink` has one."""

    def write(self, partition: int, batch: Batch, ratings: Sequence[Rating]) -> None:
        """A batch's scores; `ratings` run in parallel to `batch.updated`."""


class ReplayPort:
    """`worker.pipeline.Port` over a tape and a file. A batch ends at the range's start: warming up never scores."""

    def __init__(
        self,
        tape: Tape,
        stretch: Stretch,
        *,
        windows: Windows,
        sink: Sink,
        tally: Tally,
        advanced: Callable[[int], None],
    ) -> None:
        self._tape = tape
        self._stretch = stretch
        self._windows = windows
        self._sink = sink
        self._tally = tally
        self._before = stretch.start
        self._passed = stretch.warm_from
        self._advanced = advanced

    async def take(self, early_s: float) -> Sequence[Record]:  # noqa: ARG002 - nobody waits for a replay's commits
        """The next records of the warm-up, or of the range once that is over."""
        records = await self._tape.read(before=self._before)
        passed = records[-1].offset + 1 if records else self._before
        self._advanced(passed - self._passed)
        self._passed = passed
        return records

    def window(self, key: bytes) -> bytes | None:
        """As folded so far."""
        return self._windows.get(key)

    def browse(self, count: int) -> Iterable[tuple[bytes, bytes]]:  # noqa: ARG002 - the protocol's
        """Nobody: the windows are thrown away as a whole."""
        return ()

    async def publish(self, batch: Batch, ratings: Sequence[Rating]) -> int:
        """Scores to the sink; there is no changelog, so its offset is 0."""
        self._sink.write(self._stretch.partition, batch, ratings)
        self._tally.add(batch, ratings)
        return 0

    def store(self, windows: Changes, watermark: Watermark, changelog_offset: int) -> None:  # noqa: ARG002 - the protocol's
        """Keep the windows."""
        for key, after in windows.items():
            if after is not None:
                self._windows[key] = after
            elif key in self._windows:
                del self._windows[key]

    def done(self, batch: Batch, ratings: Sequence[Rating]) -> None:
        """Nothing to acknowledge."""

    async def warm_up(self, *, rules: Rules, mode: Mode) -> Watermark:
        """Fold what lies before the range and publish none of it; how far that went."""
        watermark = Watermark(self._stretch.warm_from - 1)
        while records := await self.take(0.0):
            batch = fold(records, windows=self.window, start=watermark, rules=rules, mode=mode)
            self.store(batch.changed, batch.watermark, 0)
            self._tally.warmed += len(records)
            watermark = batch.watermark
        self._before = self._stretch.end
        return watermark


async def play(
    plan: Plan,
    *,
    consumer: Callable[[], Consumer],
    engine: Engine,
    sink: Sink,
    tally: Tally,
    rules: Rules,
    mode: Mode,
    state: State = "memory",
    max_batch_events: int = 2000,
    advanced: Callable[[int], None] = lambda _offsets: None,
) -> None:
    """Play all stretches into `sink`, counting in `tally`.

    `consumer` makes one for each partition; they are closed here. `advanced` hears how many offsets were
    passed; they add up to the plan's. The first error ends all partitions and is raised.
    """
    metrics = Metrics(CollectorRegistry())  # the pipeline's own; a replay's numbers are its report
    places = asyncio.Semaphore(PARTITIONS_AT_ONCE)

    async def partition(stretch: Stretch) -> None:
        async with places:
            own = consumer()
            try:
                tape = Tape(own, plan.topic, stretch, max_records=max_batch_events)
                with throwaway(state) as windows:
                    port = ReplayPort(tape, stretch, windows=windows, sink=sink, tally=tally, advanced=advanced)
                    await pipeline.run(
                        port,
                        engine=engine,
                        start=await port.warm_up(rules=rules, mode=mode),
                        rules=rules,
                        mode=mode,
                        metrics=metrics,
                        now_ms=lambda: 0,
                        failed=lambda _error: None,  # raised by `run` itself: nothing here waits for ever
                    )
            finally:
                await asyncio.to_thread(own.close)

    try:
        async with asyncio.TaskGroup() as partitions:
            for stretch in plan.stretches:
                partitions.create_task(partition(stretch))
    except ExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
