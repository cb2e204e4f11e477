"""What a scorer's process is told and what it answers: one JSON line each way. Knows neither torch nor any scorer."""

import sys
from dataclasses import asdict, dataclass
from typing import Any, Self

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One scorer of one model, for the life of its process."""

    scorer: str
    size: str
    device: str
    threads: int
    folder: str  # the pools, the exported model where one is there, compilers' caches
    packages: str = ""  # the folder of the runtimes' packages

    def dump(self) -> str:
        """For the command line."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def of_command_line(cls) -> Self:
        """As the parent dumped it."""
        return cls(**orjson.loads(sys.argv[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A scorer has scored its first window and then the check windows."""

    load_s: float  # weights in memory to a scorer that takes windows: compiling a graph, copying to the device
    first_score_s: float  # process begun to first score in hand, the interpreter's imports included
    memory_mb: float  # device memory, or what the process has grown by since before the load
    scores: list[list[float]]  # probabilities of the check windows, in one batch
    parted: list[list[float]]  # of the first of them in smaller batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Whole batches scored, back to back."""

    windows: int
    positions: int
    batches: int
    flops: float
    seconds: float
    cpu_s: float  # of the process, all threads: what a busy machine disturbs less than seconds

    @property
    def rate(self) -> float:
        """Windows a second."""
        return self.windows / self.seconds


def say(answer: Any) -> None:
    """One line to the parent."""
    print(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY).decode(), flush=True)
