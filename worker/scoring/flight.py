"""One batch under way: from the jobs that share it, through the device, to their answers.

Owns what the host adds to what the device computes: risk and reason codes. Knows neither queues nor what becomes of a
batch that fails. On the engine's thread only.
"""

import time
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worker.errors import IntentError
from worker.scoring import reasons, risk
from worker.scoring.answer import Scores
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.device import Pending, Runner
from worker.scoring.lanes import Part

Beside = tuple[tuple[Floats, NDArray[np.uint8]], tuple[NDArray[np.uint8], Floats]]
"""What the host makes of a batch: risk with its codes' bits, reason codes with their weights."""


def beside(batch: Batch, bundle: Bundle) -> Beside:
    """Of a batch, with what the bundle knows of habits and reasons."""
    return risk.risk(batch, bundle.habits), reasons.top(batch, bundle.surrogate)


@dataclass(slots=True)
class Flight:
    """A batch that the device has, or had."""

    parts: list[Part]
    runner: Runner
    batch: Batch
    pending: Pending
    began_s: float
    launched_s: float
    ended_s: float | None = None
    """Where somebody saw the device end it."""
    _beside: Beside | None = None

    @classmethod
    def launch(cls, parts: list[Part], runner: Runner) -> Self:
        """Gives a batch of the parts' windows to the device."""
        began_s = time.perf_counter()
        batch = Batch.of([one for part in parts for one in part.windows])
        pending = runner.begin(batch)
        return cls(parts, runner, batch, pending, began_s=began_s, launched_s=time.perf_counter())

    @property
    def tokens(self) -> int:
        """In all."""
        return sum(part.tokens for part in self.parts)

    def beside(self) -> Beside:
        """Computed once, best while the device has the batch."""
        if self._beside is None:
            self._beside = beside(self.batch, self.runner.bundle)
        return self._beside

    def deliver(self) -> Floats:
        """Waits for the device and answers each part's job. [B, HORIZONS] probabilities. Raises what went wrong."""
        bundle = self.runner.bundle
        (risk_score, risk_mask), (codes, weights) = self.beside()
        seen = self.pending.done()
        intent = self.pending.wait()
        if not seen:
            self.ended_s = time.perf_counter()
        if not np.isfinite(intent).all():
            raise IntentError(f"model {bundle.name} {bundle.version} gave scores that are not numbers")
        ranks = None if bundle.percentiles is None else bundle.percentiles.of(intent)
        scores = Scores(intent, risk_score, risk_mask, codes, weights, bundle.label, ranks)
        end = 0
        for part in self.parts:
            start, end = end, end + part.end - part.start
            part.job.add(part.start, scores.part(start, end))
        return intent
