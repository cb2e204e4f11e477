"""What waits to be scored: jobs of several callers, shared out evenly into batches under a budget of tokens.

Owns who is next, how a large job is split, and when its parts are the whole answer. A lane has no lock of its own: the
engine calls it under the engine's. Knows no model, no device and no thread.

A batch is shared out evenly between the callers that wait; what one does not need goes to the others. So a caller
whose windows fit into its share waits for the batch under way and for its own, however much another has sent.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from worker import window
from worker.scoring.answer import Scores


class Job:
    """The windows of one call, answered once: when all parts are scored, or when the first fails."""

    def __init__(self, windows: Sequence[bytes], caller: Hashable) -> None:
        self.windows = windows
        self.caller = caller
        self.answer: Future[Scores] = Future()
        self.taken = 0
        """Windows given out."""
        self._ends = np.cumsum([1 + window.length(one) if len(one) > 2 else 1 for one in windows])
        self._found: dict[int, Scores] = {}

    @property
    def tokens(self) -> int:
        """Positions of the windows that still wait: one an event, and one a window."""
        return int(self._ends[-1]) - self._before(self.taken)

    @property
    def waiting(self) -> int:
        """Windows that still wait."""
        return len(self.windows) - self.taken

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.answer.done()

    def reach(self, tokens: int) -> int:
        """How far its windows go with so many tokens more: an end for `cost`."""
        return int(np.searchsorted(self._ends, self._before(self.taken) + tokens, side="right"))

    def cost(self, start: int, end: int) -> int:
        """Tokens of windows [start, end)."""
        return self._before(end) - self._before(start)

    def add(self, start: int, scores: Scores) -> None:
        """Scores of the windows from `start` on. The last part answers the caller."""
        self._found[start] = scores
        if sum(map(len, self._found.values())) == len(self.windows):
            settle(self.answer, Scores.joined([self._found[at] for at in sorted(self._found)]))

    def fail(self, error: BaseException) -> None:
        """Answer with an error. What is still queued of it is dropped."""
        with suppress(InvalidStateError):  # asked first whether it is answered, another thread could come between
            self.answer.set_exception(error)

    def _before(self, place: int) -> int:
        return int(self._ends[place - 1]) if place else 0


class Part(NamedTuple):
    """Windows [start, end) of a job."""

    job: Job
    start: int
    end: int

    @property
    def tokens(self) -> int:
        """What it adds to a batch."""
        return self.job.cost(self.start, self.end)

    @property
    def windows(self) -> Sequence[bytes]:
        """The windows."""
        return self.job.windows[self.start : self.end]


class Lane:
    """A queue of jobs, bounded in tokens."""

    def __init__(self, *, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        """Of the windows that wait."""
        self.windows = 0
        """That wait."""
        self._callers: OrderedDict[Hashable, deque[Job]] = OrderedDict()

    def __bool__(self) -> bool:
        return self.windows > 0

    def has_room(self, job: Job) -> bool:
        """An empty lane takes any job, the larger than its bound, too."""
        return not self.tokens or self.tokens + job.tokens <= self.max_tokens

    def put(self, job: Job) -> None:
        """Queue behind the caller's others."""
        self._callers.setdefault(job.caller, deque()).append(job)
        self.tokens += job.tokens
        self.windows += job.waiting

    def begun(self) -> bool:
        """Whether a job is partly given out."""
        return any(job.taken and job.waiting and not job.over for jobs in self._callers.values() for job in jobs)

    def take(self, budget: int, *, only_begun: bool = False) -> list[Part]:
        """A batch of at most `budget` tokens, or of one window that is larger. Empty when nothing waits.

        `only_begun`: nothing of a job of which nothing was given out before.
        """
        ends: dict[Job, tuple[int, int]] = {}  # job -> [start, end)
        left, moved = budget, True
        while left > 0 and moved:
            moved = False
            callers = self._ready(only_begun=only_begun)
            for place, caller in enumerate(callers):
                if left <= 0:
                    break
                share = max(1, left // (len(callers) - place))
                for job, start, end in self._of(caller, share, left, first=not ends, only_begun=only_begun):
                    ends[job] = (ends[job][0] if job in ends else start, end)
                    left -= job.cost(start, end)
                    moved = True
        self._ready(only_begun=False)
        return [Part(job, start, end) for job, (start, end) in ends.items()]

    def drop(self) -> list[Job]:
        """Empties the lane; what waited."""
        jobs = [job for jobs in self._callers.values() for job in jobs if not job.over]
        self._callers.clear()
        self.tokens = self.windows = 0
        return jobs

    def _ready(self, *, only_begun: bool) -> list[Hashable]:
        """Callers that wait, in turn. Forgets jobs that nobody waits for."""
        for caller, jobs in list(self._callers.items()):
            while jobs and (jobs[0].over or not jobs[0].waiting):
                job = jobs.popleft()
                self.tokens -= job.tokens
                self.windows -= job.waiting
            if not jobs:
                del self._callers[caller]
        return [caller for caller, jobs in self._callers.items() if jobs[0].taken or not only_begun]

    def _of(self, caller: Hashable, share: int, left: int, *, first: bool, only_begun: bool) -> list[Part]:
        """One turn of a caller: windows for `share` tokens; one that is larger, if there is place `left` for it.

        Who got anything goes behind the others, so that the next batch begins with those who got nothing.
        """
        parts: list[Part] = []
        for job in self._callers[caller]:
            if share <= 0 or (only_begun and not job.taken):
                break
            if job.over:
                continue
            start, end = job.taken, job.reach(share)
            if not parts and end == start and (first or job.cost(start, start + 1) <= left):
                end = start + 1
            if end == start:
                break
            part = Part(job, start, end)
            parts.append(part)
            job.taken = end
            share -= part.tokens
            self.tokens -= part.tokens
            self.windows -= end - start
            if end < len(job.windows):
                break
        if parts:
            self._callers.move_to_end(caller)
        return parts


def halves(parts: Sequence[Part]) -> list[list[Part]]:
    """The same windows as two batches of about as many tokens; empty for a single window."""
    if len(parts) == 1 and parts[0].end - parts[0].start == 1:
        return []
    half = sum(part.tokens for part in parts) // 2
    first: list[Part] = []
    second: list[Part] = []
    spent = 0
    for job, start, end in parts:
        cut = start
        while cut < end and (spent + job.cost(start, cut + 1) <= half or not (first or cut > start)):
            cut += 1
        spent += job.cost(start, cut)
        if cut > start:
            first.append(Part(job, start, cut))
        if cut < end:
            second.append(Part(job, cut, end))
            spent = half + 1  # all behind it belongs to the second, so that order is kept
    return [first, second]


def settle(waiter: "Future[Any]", value: object) -> None:
    """Answers one that may have been cancelled, or answered by another thread, meanwhile."""
    with suppress(InvalidStateError):
        waiter.set_result(value)
