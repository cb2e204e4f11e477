"""Where a running process spends its CPU, by looking at its threads' stacks every few milliseconds of it.

The process's own CPU clock sends a signal (SIGPROF), and its handler looks. A thread that looks by itself would come to
its turn where others let go of the interpreter, at input and output, and see little else.

A thread's own CPU clock says how much there is to share out, its stacks say between whom; threads that run no Python
(RocksDB's compactions, clients' input and output) count as a whole. Linux only: it reads /proc.
"""

import os
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

NATIVE: Final = "threads without Python"
OTHER: Final = "other Python"

Stages = Sequence[tuple[str, str | None, str]]
"""(end of a file's path, function or None for any, stage): the innermost frame that is listed decides."""

_EVERY_S: Final = 0.003
_WAITING: Final = frozenset({"select", "poll", "wait", "_wait_for_tstate_lock", "accept"})
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Sampler:
    """Samples all threads between `start` and `stop`, which the main thread calls."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._seen: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._known: dict[tuple[str, str], str | None] = {}
        self._before: dict[int, float] = {}

    def start(self) -> None:
        """Begin."""
        self._before = _cpu_s()
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)

    def stop(self) -> dict[str, float]:
        """End; CPU seconds by stage."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        spent = {thread: now - self._before.get(thread, 0.0) for thread, now in _cpu_s().items()}
        natives = {thread.ident: thread.native_id for thread in threading.enumerate()}
        return self._shared_out(spent, natives)

    def _shared_out(self, spent: dict[int, float], natives: Mapping[int | None, int | None]) -> dict[str, float]:
        seconds: defaultdict[str, float] = defaultdict(float)
        for thread, seen in self._seen.items():
            cpu_s = spent.pop(natives.get(thread) or 0, 0.0)
            total = sum(seen.values())
            for stage, count in seen.items():
                seconds[stage] += cpu_s * count / total
        seconds[NATIVE] += sum(spent.values())
        return dict(seconds)

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        frames: dict[int, FrameType | None] = {**sys._current_frames()}  # noqa: SLF001 - documented, for this use
        frames[threading.get_ident()] = frame  # not the handler's own
        for thread, innermost in frames.items():
            if innermost is not None and innermost.f_code.co_name not in _WAITING:
                self._seen[thread][self._stage(innermost)] += 1

    def _stage(self, frame: FrameType | None) -> str:
        while frame is not None:
            code = frame.f_code
            place = code.co_filename, code.co_name
            if place not in self._known:
                self._known[place] = self._listed(*place)
            stage = self._known[place]
            if stage is not None:
                return stage
            frame = frame.f_back
        return OTHER

    def _listed(self, path: str, function: str) -> str | None:
        for end, name, stage in self._stages:
            if end in path and name in {None, function}:
                return stage
        return None


def _cpu_s() -> dict[int, float]:
    """CPU seconds of each thread of this process, by its native id."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found
