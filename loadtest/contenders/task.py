"""What a contender is told, and what it answers: one JSON document each way. Runs in any contender's environment.

The clock starts when the first event is taken up and stops when all are processed and their outputs are acknowledged,
committed where the contender promises that. Connecting, joining the group and ending are not in it.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Literal, NoReturn, Self

Job = Literal["light", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run. The events topic holds exactly `count` records; the output topics are empty and this run's own."""

    job: Job
    servers: str
    events: str
    scores: str
    latest: str
    dead_letters: str
    partitions: int
    count: int
    group: str
    """A name that no other run has: of the consumer group, the state and the transactions."""
    folder: str
    """For state; empty."""
    option: str = ""
    """What tells two contenders of one program apart."""

    def dump(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of_command_line(cls) -> Self:
        """What this program was started with."""
        return cls(**json.loads(sys.argv[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a run took. `cpu_s` is the whole process's: all threads, user and system."""

    events: int
    seconds: float
    cpu_s: float


class Stopwatch:
    """Wall clock and the process's CPU time, from the first event on."""

    def __init__(self) -> None:
        self._begun: tuple[float, float] | None = None

    @property
    def begun(self) -> bool:
        """Whether the first event has come."""
        return self._begun is not None

    def begin(self) -> None:
        """The first event is here. Further calls change nothing."""
        if self._begun is None:
            self._begun = time.perf_counter(), time.process_time()

    def read(self, events: int) -> Taken:
        """Since `begin`."""
        assert self._begun is not None, "nothing has begun"
        wall, cpu = self._begun
        return Taken(events=events, seconds=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


def answer(taken: Taken) -> NoReturn:
    """Print what it took and end the process at once: how long a library takes to stop is not what is compared."""
    os.write(1, f"\n{json.dumps(asdict(taken))}\n".encode())  # Faust would make a log line of what is printed
    os._exit(0)
