"""Drift as gauges of a running worker: what was scored lately, beside the reference of the model that scored it.

Called on the engine's thread after each batch. Owns the rolling window and the budget: a batch is counted only while
counting has taken less than `SHARE` of the thread's processor time, whatever else runs on the machine; the others are
passed over. Knows neither Kafka nor the engine.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import structlog

from worker.drift import values
from worker.drift.findings import findings, unseen_items
from worker.drift.psi import WATCH, Counts
from worker.ops.metrics import Metrics
from worker.scores import Model
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle

SHARE: Final = 0.01
"""Of the thread's processor time, at most, but for one batch."""

TELL_S: Final = 60.0
"""Between two updates of the gauges."""

PARTS: Final = 10
"""The rolling window moves on by a part of it."""

log = structlog.get_logger(__name__)


class Monitor:
    """Watches the last `window_events` counted windows. One thread calls `see`."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        window_events: int,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._metrics = metrics
        self._part_events = max(1, window_events // PARTS)
        self._clock = clock
        self._cpu = cpu
        self._model: Model | None = None
        self._parts: deque[tuple[int, Counts]] = deque(maxlen=PARTS)
        self._told_s = clock()
        self._left_s: float | None = None  # processor time when the last batch had been seen
        self._scoring_s = self._counting_s = 0.0
        self._failed = False

    def see(self, batch: Batch, intent: Floats, bundle: Bundle) -> None:
        """A batch that was scored. Never raises: a worker that cannot watch still scores."""
        try:
            began = self._cpu()
            self._scoring_s += 0.0 if self._left_s is None else began - self._left_s
            if self._see(batch, intent, bundle):
                self._counting_s += self._cpu() - began
            self._left_s = self._cpu()
        except Exception:
            if not self._failed:
                log.exception("drift is not watched any more")
            self._failed = True
            self._metrics.forget_drift()

    def _see(self, batch: Batch, intent: Floats, bundle: Bundle) -> bool:
        """Whether it was counted."""
        if bundle.label != self._model:  # another model has another reference
            self._model = bundle.label
            self._parts.clear()
            self._failed = False
            self._metrics.forget_drift()
        if bundle.drift is None or self._failed or self._counting_s > SHARE * self._scoring_s:
            return False
        counted = values.count(batch, intent, bundle.vocabulary, bundle.drift)
        if not self._parts or self._parts[-1][0] >= self._part_events:
            self._parts.append((0, np.zeros_like(counted)))
        events, counts = self._parts[-1]
        self._parts[-1] = events + len(batch), counts + counted
        now = self._clock()
        if now - self._told_s >= TELL_S:
            self._tell(bundle)
            self._told_s = now
        return True

    def _tell(self, bundle: Bundle) -> None:
        assert bundle.drift is not None
        counts = np.sum([counts for _, counts in self._parts], axis=0)
        self._metrics.show_drift(
            psi={f.feature: f.psi for f in findings(bundle.drift, counts) if f.noise <= WATCH},
            unseen_items=unseen_items(bundle.drift, counts),
            events=sum(events for events, _ in self._parts),
        )
