"""The policies of `queueing` on real threads, in front of one forward: what differs between them is when they freeze.

A window's latency runs from the moment it was due, whether or not it was handed over then (open loop).
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from loadtest.queueing import Policy, Seconds
from loadtest.scorers.serve import Scorer
from worker import window
from worker.scoring.engine import Engine

PARTITIONS: Final = 4
"""Callers of the engine."""

_SMOOTHING: Final = 8
_LEAD_IN_S: Final = 0.05
_NEAR_S: Final = 0.0005


class Scheduler:
    """Scores windows as they come. One use: `play` once."""

    def __init__(self, scorer: Scorer, policy: Policy, *, budget: int) -> None:
        self._scorer = scorer
        self._policy = policy
        self._budget = budget
        self._change = threading.Condition()
        self._arrived = 0
        self._over = False
        self._slot: tuple[int, int, Any] | None = None  # a prepared batch: its windows [first, end), arranged
        self._computing = False
        self._free_s = 0.0  # when the device is expected to be free
        self._lead_s = self._token_s = 0.0  # smoothed: a batch's preparation; a token's computation

    def play(self, windows: Sequence[bytes], due: Seconds) -> Seconds:
        """[n] seconds from due to scored. Blocks until all are."""
        self._windows = windows
        self._ends = np.concatenate(([0], np.cumsum([1 + window.length(one) for one in windows]))).tolist()
        self._start = time.perf_counter() + _LEAD_IN_S
        self._due = due.tolist()
        self._done = np.empty(len(windows))
        threads = [threading.Thread(target=self._prepare, name="host")]
        if self._policy.overlap:
            threads.append(threading.Thread(target=self._compute, name="device"))
        for thread in threads:
            thread.start()
        arrived = 0
        while arrived < len(windows):
            _sleep_until(self._start + self._due[arrived])
            arrived = int(np.searchsorted(due, time.perf_counter() - self._start, side="right"))
            with self._change:
                self._arrived = arrived
                self._change.notify_all()
        for thread in threads:
            thread.join()
        return self._done - due

    # -- the host's thread ---------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        first = 0
        while first < len(self._windows):
            end = self._freeze(first)
            begin = time.perf_counter()
            arranged = self._scorer.arrange(self._windows[first:end])
            self._lead_s += (time.perf_counter() - begin - self._lead_s) / _SMOOTHING
            if self._policy.overlap:
                with self._change:
                    self._slot = first, end, arranged
                    self._change.notify_all()
            else:
                self._finish(first, end, arranged)
            first = end
        with self._change:
            self._over = True
            self._change.notify_all()

    def _freeze(self, first: int) -> int:
        """Waits until the policy freezes the batch that begins with this window; its end."""
        full = self._full(first)
        with self._change:
            while self._arrived <= first or self._slot is not None:
                self._change.wait()
            while (wait_s := self._wait_s(first, full)) > 0:
                self._change.wait(wait_s)
            return min(full, self._arrived)

    def _wait_s(self, first: int, full: int) -> float:
        now = time.perf_counter()
        until = self._free_s - self._lead_s if self._policy.overlap and self._computing else now
        if self._policy.timer_s and self._arrived < min(full + 1, len(self._windows)):
            until = max(until, self._start + self._due[first] + self._policy.timer_s)
        return until - now

    def _full(self, first: int) -> int:
        limit = self._ends[first] + self._budget
        return max(first + 1, int(np.searchsorted(self._ends, limit, side="right")) - 1)

    # -- the device's thread, or the host's where they take turns ------------------------------------------------------

    def _compute(self) -> None:
        while True:
            with self._change:
                while self._slot is None:
                    if self._over:
                        return
                    self._change.wait()
                first, end, arranged = self._slot
                self._slot = None
                self._computing = True
                tokens = self._ends[end] - self._ends[first]
                self._free_s = time.perf_counter() + tokens * self._token_s
                self._change.notify_all()
            self._finish(first, end, arranged)
            with self._change:
                self._computing = False
                self._change.notify_all()

    def _finish(self, first: int, end: int, arranged: Any) -> None:
        begin = time.perf_counter()
        self._scorer.forward(arranged)
        now = time.perf_counter()
        self._done[first:end] = now - self._start
        each = (now - begin) / (self._ends[end] - self._ends[first])
        self._token_s += (each - self._token_s) / _SMOOTHING


def play_engine(engine: Engine, windows: Sequence[bytes], due: Seconds) -> Seconds:
    """The worker's engine, called as the worker calls it: by a few partitions, each of which sends what has come since
    its last call. Risk and reasons are in it, and asyncio's timers.
    """
    done = np.empty(len(windows))

    async def partition(number: int, start: float) -> None:
        places = np.arange(number, len(windows), PARTITIONS)
        while len(places):
            await asyncio.sleep(max(0.0, start + float(due[places[0]]) - time.perf_counter()))
            come = int(np.searchsorted(due[places], time.perf_counter() - start, side="right"))
            now, places = places[:come], places[come:]
            await engine.score([windows[place] for place in now])
            done[now] = time.perf_counter() - start

    async def all_of_them() -> None:
        start = time.perf_counter() + _LEAD_IN_S
        async with asyncio.TaskGroup() as group:
            for number in range(PARTITIONS):
                group.create_task(partition(number, start))

    asyncio.run(all_of_them())
    return done - due


def saturated(play: Callable[[Sequence[bytes], Seconds], Seconds], windows: Sequence[bytes]) -> float:
    """Windows a second when all are there at once: the median of three times, after one that is not counted.

    A cold engine's first time was a third slower: every load would be a share of too little, and look easy.
    """
    took_s = [float(play(windows, np.zeros(len(windows))).max()) for _ in range(4)]
    return len(windows) / median(took_s[1:])


def _sleep_until(at: float) -> None:
    """Sleeps, but for the last half millisecond, in which a sleep would be late."""
    while (left_s := at - time.perf_counter()) > 0:
        time.sleep(left_s if left_s < _NEAR_S else left_s - _NEAR_S / 2)
