"""The scoring engine: one thread owns the model and the device; whoever has windows to score shares its batches.

Whatever waits when the thread is free is scored together, up to a limit: no timer. Owns the queue and its bound, the
thread, what a failure and a cancellation mean. Knows neither Kafka nor the pipeline, nor how logits come about.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from worker import facts, window
from worker.errors import IntentError, SettingError
from worker.scores import Model as ModelName
from worker.scoring import forward, reasons, risk
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle

CLOSE_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Row i is window i's."""

    intent: Floats  # [n, 3] calibrated probabilities: 30 min, 24 h, 7 d
    risk: Floats  # [n]
    risk_reasons: NDArray[np.uint8]  # [n] mask of `scores.RISK_REASONS`
    reason_codes: NDArray[np.uint8]  # [n, 3] places in `scores.REASONS`, or `scores.NO_REASON`
    reason_weights: Floats  # [n, 3] logits of the 24 h score

    def __len__(self) -> int:
        return len(self.risk)

    def part(self, start: int, end: int) -> "Scores":
        """The rows [start, end)."""
        return Scores(*(getattr(self, field.name)[start:end] for field in fields(self)))

    @classmethod
    def empty(cls) -> "Scores":
        """Of no windows."""
        small = np.empty(0, np.uint8), np.empty((0, reasons.TOP), np.uint8)
        return cls(
            np.empty((0, 3), np.float32), np.empty(0, np.float32), *small, np.empty((0, reasons.TOP), np.float32)
        )


@dataclass(frozen=True, slots=True)
class _Job:
    windows: Sequence[bytes]
    answer: "Future[Scores]"


class Engine:
    """Scores windows on one thread of its own. `score` for tasks, `score_now` for threads; both may be used at once.

    `device` is `auto` (CUDA where there is one), `cpu` or `cuda`. At most `max_queued_windows` wait (default: 16
    batches): callers beyond wait for room. `threads` are torch's on the CPU; the default leaves one core to the rest
    of the process. Raises `SettingError` for a device that is not there.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        max_batch_windows: int = 1024,
        max_queued_windows: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.model: ModelName = bundle.label
        self.device = _device(device)
        self._bundle = bundle
        self._max_batch = max_batch_windows
        self._max_queued = max_queued_windows or 16 * max_batch_windows
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self._lock = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._room: list[Future[None]] = []
        self._queued = 0
        self._closed = False
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="engine", daemon=True)
        self._thread.start()
        started.result()

    @property
    def queued(self) -> int:
        """Windows that wait, without those being scored."""
        return self._queued

    @property
    def alive(self) -> bool:
        """Whether the thread still takes work."""
        return self._thread.is_alive() and not self._closed

    async def score(self, windows: Sequence[bytes]) -> Scores:
        """Row i is window i's. An error is that of these windows alone; cancelling takes them out of the queue."""
        if not windows:
            return Scores.empty()
        while True:
            waiting = self._enter(windows)
            if isinstance(waiting, _Job):
                return await asyncio.wrap_future(waiting.answer)
            await asyncio.wrap_future(waiting)

    def score_now(self, windows: Sequence[bytes]) -> Scores:
        """As `score`, blocking the calling thread: for offline use."""
        if not windows:
            return Scores.empty()
        while True:
            waiting = self._enter(windows)
            if isinstance(waiting, _Job):
                return waiting.answer.result()
            waiting.result()

    def close(self) -> None:
        """Ends the thread after the batch under way; what still waits fails. May be called twice."""
        with self._lock:
            self._closed = True
            abandoned, room = list(self._jobs), self._room
            self._jobs.clear()
            self._queued, self._room = 0, []
            self._lock.notify_all()
        for waiter in room:
            _settle(waiter, None)
        for job in abandoned:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(IntentError("the scoring engine was closed before these windows were scored"))
        self._thread.join(CLOSE_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(self, windows: Sequence[bytes]) -> "_Job | Future[None]":
        """The windows' job, queued; or, when there is no room, what to wait for before trying again."""
        with self._lock:
            if self._closed or not self._thread.is_alive():
                raise IntentError("the scoring engine is closed; it takes no more windows")
            if self._queued and self._queued + len(windows) > self._max_queued:
                waiter: Future[None] = Future()
                self._room.append(waiter)
                return waiter
            job = _Job(windows, Future())
            self._jobs.append(job)
            self._queued += len(windows)
            self._lock.notify_all()
            return job

    def _take(self) -> list[_Job]:
        """What waits, up to a batch, cancelled jobs left out. Blocks for the first; empty once closed."""
        with self._lock:
            while not self._jobs and not self._closed:
                self._lock.wait()
            jobs: list[_Job] = []
            size = 0
            while self._jobs and (not jobs or size + len(self._jobs[0].windows) <= self._max_batch):
                job = self._jobs.popleft()
                self._queued -= len(job.windows)
                if job.answer.set_running_or_notify_cancel():
                    jobs.append(job)
                    size += len(job.windows)
            room, self._room = self._room, []
        for waiter in room:
            _settle(waiter, None)
        return jobs

    def _run(self, started: "Future[None]") -> None:
        """The thread."""
        try:
            torch.set_num_threads(self._threads)  # of this thread, which is the one that computes
            self._bundle.model.eval().to(self.device)
            self._score(_WARM_UP)
        except BaseException as error:  # the constructor raises it
            started.set_exception(error)
            return
        started.set_result(None)
        while not self._closed:
            jobs = self._take()
            if len(jobs) > 1 and self._answer_together(jobs):
                continue
            for job in jobs:
                try:
                    job.answer.set_result(self._score(job.windows))
                except Exception as error:  # whatever it is, it belongs to these callers, not to the thread
                    job.answer.set_exception(error)

    def _answer_together(self, jobs: list[_Job]) -> bool:
        """False when the batch failed: whose fault it is shows when each job is scored alone."""
        try:
            scores = self._score([window for job in jobs for window in job.windows])
        except Exception:
            return False
        end = 0
        for job in jobs:
            start, end = end, end + len(job.windows)
            job.answer.set_result(scores.part(start, end))
        return True

    def _score(self, windows: Sequence[bytes]) -> Scores:
        bundle = self._bundle
        batch = Batch.of(windows)
        logits = forward.logits(bundle.model, bundle.vocabulary, batch, device=self.device, max_windows=self._max_batch)
        if not np.isfinite(logits).all():
            raise IntentError(f"model {self.model.name} {self.model.version} gave scores that are not numbers")
        risk_score, risk_mask = risk.risk(batch)
        codes, weights = reasons.top(batch, bundle.surrogate)
        return Scores(bundle.calibration.probabilities(logits), risk_score, risk_mask, codes, weights)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("the setting `model.device` is 'cuda', but torch finds no CUDA device; use 'auto' or 'cpu'")
    if name not in {"cpu", "cuda"}:
        raise SettingError(f"the setting `model.device` is {name!r}; accepted are 'auto', 'cpu' and 'cuda'")
    return torch.device(name)


def _settle(waiter: "Future[Any]", value: object) -> None:
    """Answers one that may have been cancelled meanwhile."""
    if waiter.set_running_or_notify_cancel():
        waiter.set_result(value)


def _warm_up() -> list[bytes]:
    """One short and one full window: the first real scores need not wait for what torch sets up on first use."""
    rules = window.Rules()
    event = facts.Facts(1, 0, 1, 0, 0, 0, 0, 0, facts.NO_CONTEXT)
    short = window.fold(None, event, rules=rules).window
    full = short
    for number in range(2, window.EVENTS + 1):
        full = window.fold(full, event._replace(id=number, time_ms=number * 1000), rules=rules).window
    return [short, full]


_WARM_UP: Final = _warm_up()
