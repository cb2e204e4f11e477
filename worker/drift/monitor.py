"""Drift as gauges of a running worker: what was scored lately, beside the reference of the model that scored it.

Called on the engine's thread after each batch. Owns the rolling window and the budget: a batch is counted only while
counting has taken less than `SHARE` of the time that scoring took, so that a CPU counts about each second batch and a
fast device one in hundreds. Knows neither Kafka nor the engine.
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

SHARE: Final = 0.005
"""Of the time that scoring takes, at most, but for one batch."""

TELL_S: Final = 60.0
"""Between two updates of the gauges."""

PARTS: Final = 10
"""The rolling window moves on by a part of it."""

log = structlog.get_logger(__name__)


class Monitor:
    """Watches the last `window_events` counted windows. One thread calls `see`."""

    def __init__(self, metrics: Metrics, *, window_events: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._metrics = metrics
        self._part_events = max(1, window_events // PARTS)
        self._clock = clock
        self._model: Model | None = None
        self._parts: deque[tuple[int, Counts]] = deque(maxlen=PARTS)
        self._told_s = clock()
        self._scoring_s = self._counting_s = 0.0
        self._failed = False

    def see(self, batch: Batch, intent: Floats, bundle: Bundle, scoring_s: float) -> None:
        """A batch that was scored within `scoring_s`. Never raises: a worker that cannot watch still scores."""
        try:
            self._see(batch, intent, bundle, scoring_s)
        except Exception:
            if not self._failed:
                log.exception("drift is not watched any more")
            self._failed = True
            self._metrics.forget_drift()

    def _see(self, batch: Batch, intent: Floats, bundle: Bundle, scoring_s: float) -> None:
        if bundle.label != self._model:  # another model has another reference
            self._model = bundle.label
            self._parts.clear()
            self._metrics.forget_drift()
        self._scoring_s += scoring_s
        if bundle.drift is None or self._failed or self._counting_s > SHARE * self._scoring_s:
            return
        began = self._clock()
        counted = values.count(batch, intent, bundle.vocabulary, bundle.drift)
        if not self._parts or self._parts[-1][0] >= self._part_events:
            self._parts.append((0, np.zeros_like(counted)))
        events, counts = self._parts[-1]
        self._parts[-1] = events + len(batch), counts + counted
        if began - self._told_s >= TELL_S:
            self._tell(bundle)
            self._told_s = began
        self._counting_s += self._clock() - began

    def _tell(self, bundle: Bundle) -> None:
        assert bundle.drift is not None
        counts = np.sum([counts for _, counts in self._parts], axis=0)
        self._metrics.show_drift(
            psi={f.feature: f.psi for f in findings(bundle.drift, counts) if f.noise <= WATCH},
            unseen_items=unseen_items(bundle.drift, counts),
            events=sum(events for events, _ in self._parts),
        )
