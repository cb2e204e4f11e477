"""All scorers of one model, started, and measured in turn. Owns who runs when; knows neither tables nor plots."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from loadtest.scorers import work
from loadtest.scorers.child import Child
from loadtest.scorers.task import Ready, Task, Turn
from loadtest.scorers.work import Mix, Pool
from worker.errors import IntentError
from worker.scoring.head import SIZES

REFERENCE: Final = "eager-fp32"
"""What ratios and score differences are against."""

OURS: Final = ("packed", "score-now")
"""Beginnings of the names of the worker's own."""

RUNTIMES: Final = ("ort", "openvino")
"""Beginnings of the names of those that need the exported model."""

PEAKS: Final = ("peak-fp32", "peak-bf16")

_PEAK_S: Final = 0.3
_BATCH_LIMIT_S: Final = 4.0
_SHARE: Final = 0.3
"""Of the peak that a slow scorer reaches: with `_BATCH_LIMIT_S`, which cells are affordable."""


class Cell(NamedTuple):
    """One length mix and one size of batch."""

    mix: Mix
    batch: str

    def __str__(self) -> str:
        return f"{self.mix} lengths, batches of {self.batch}"


@dataclass(frozen=True, slots=True)
class Found:
    """A scorer's runs of one cell."""

    warm_up_s: float  # the first batches of this size
    memory_mb: float
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One scorer."""

    ready: Ready
    cells: dict[Cell, Found] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standings:
    """All scorers of one model; what the device reaches at most, a figure a round."""

    places: dict[str, Place]
    peaks: dict[str, list[float]]
    left_out: dict[str, str]

    def difference(self, name: str) -> float:
        """The most that a probability of the check windows differs from the reference's."""
        return _most(self.places[name].ready.scores, self.places[REFERENCE].ready.scores)

    def dependence(self, name: str) -> float:
        """The most that a probability of the check windows differs from itself in a smaller batch."""
        ready = self.places[name].ready
        return _most(ready.scores[: len(ready.parted)], ready.parted)


def _most(some: list[list[float]], others: list[list[float]]) -> float:
    return max(abs(a - b) for rows in zip(some, others, strict=True) for a, b in zip(*rows, strict=True))


def hold(
    task: Task,
    names: Sequence[str],
    cells: Iterable[Cell],
    pool: Pool,
    *,
    runs: int,
    seconds: float,
    say: Callable[[str], None],
) -> Iterator[tuple[Cell, Standings]]:
    """Starts each scorer's process, then measures cell by cell: `runs` rounds in which each has its turn.

    Yields the standings after each cell, the same that grow: who is in a hurry has what there is.

    A rival that cannot start is left out, and so is a cell of which one batch would take too long.
    """
    with ExitStack() as stack:

        def start(name: str, module: str = "serve") -> Child:
            say(f"{task.size}: starting {name}")
            return stack.enter_context(Child(replace(task, scorer=name), module=module))

        peaks = {name: start(name) for name in PEAKS}
        for child in peaks.values():
            child.hear()
        if any(name.startswith(RUNTIMES) for name in names):
            start("export", "export").finish()
        standings = Standings({}, {name: [] for name in PEAKS}, {})
        running: dict[str, Child] = {}
        for name in names:
            child = start(name)
            try:
                ready = Ready(**child.hear())
            except IntentError as error:
                if name.startswith(OURS) or name == REFERENCE:
                    raise
                standings.left_out[name] = str(error)
                continue
            running[name], standings.places[name] = child, Place(ready)
        _rate(peaks, standings)
        for cell in cells:
            cost_s = _batch_flops(task, cell, pool) / standings.peaks["peak-fp32"][0] / _SHARE
            if cost_s > _BATCH_LIMIT_S:
                standings.left_out[str(cell)] = f"one batch would take some {cost_s:.0f} s; smaller ones may do"
            else:
                say(f"{task.size}: {cell}")
                _measure(cell, running, peaks, standings, runs=runs, seconds=seconds)
            yield cell, standings


def _measure(
    cell: Cell,
    running: Mapping[str, Child],
    peaks: Mapping[str, Child],
    standings: Standings,
    *,
    runs: int,
    seconds: float,
) -> None:
    opened = {name: child.ask({"mix": cell.mix, "batch": cell.batch}) for name, child in running.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in running}
    for _ in range(runs):
        for name, child in running.items():
            turns[name].append(Turn(**child.ask({"seconds": seconds})))
        _rate(peaks, standings)
    for name, begun in opened.items():
        standings.places[name].cells[cell] = Found(begun["warm_up_s"], begun["memory_mb"], tuple(turns[name]))


def _rate(peaks: Mapping[str, Child], standings: Standings) -> None:
    for name, child in peaks.items():
        standings.peaks[name].append(child.ask({"seconds": _PEAK_S})["flops_per_s"])


def _batch_flops(task: Task, cell: Cell, pool: Pool) -> float:
    shape = SIZES[task.size]
    (windows,) = work.batches(pool.windows[cell.mix], cell.batch, most=1)
    return work.flops(work.positions(windows), layers=shape.layers, hidden=shape.hidden)
