"""Models that are to take a place: one change at a time, made ready in steps between two batches.

Owns the order of the changes and what those who asked hear of them. The engine calls `ask`, `begin` and `drop` under
its lock and the others on its thread. Knows no queue of windows.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from worker.scoring.bundle import Bundle
from worker.scoring.device import Runner

Place = Literal["champion", "challenger"]


@dataclass(frozen=True, slots=True)
class Change:
    """A model that is to take a place; `None` leaves the place empty."""

    place: Place
    bundle: Bundle | None
    done: "Future[None]" = field(default_factory=Future)


class Changes:
    """Those that are asked for, and the one under way. `prepare` makes a model ready, in steps."""

    def __init__(self, prepare: Callable[[Bundle], Generator[None, None, Runner]]) -> None:
        self._prepare = prepare
        self._asked: deque[Change] = deque()
        self._current: Change | None = None
        self._steps: Generator[None, None, Runner] | None = None
        self._runner: Runner | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self._current is not None or bool(self._asked)

    @property
    def ready(self) -> Change | None:
        """The one under way, once only its place is to be taken."""
        return self._current if self._steps is None else None

    def ask(self, change: Change) -> None:
        """Queue behind the others."""
        self._asked.append(change)

    def begin(self) -> None:
        """Makes the next one that under way, if none is."""
        if self._current is None and self._asked:
            self._current = self._asked.popleft()
            self._steps = None if self._current.bundle is None else self._prepare(self._current.bundle)

    def step(self) -> Exception | None:
        """One step of making ready. What went wrong, if anything: who asked has heard it, and the change is over."""
        if self._steps is None or self._current is None:
            return None
        try:
            next(self._steps)
        except StopIteration as made:
            self._runner, self._steps = made.value, None
        except Exception as error:  # belongs to who asked for the change
            self._current.done.set_exception(error)
            self._current = self._steps = None
            return error
        return None

    def take(self) -> Runner | None:
        """The model of the one that is ready, which is no longer under way."""
        runner, self._current, self._runner = self._runner, None, None
        return runner

    def drop(self) -> list[Change]:
        """Those that have not begun; they are forgotten."""
        asked = list(self._asked)
        self._asked.clear()
        return asked

    def fail(self, error: Exception) -> None:
        """Ends the one under way, if any."""
        if self._current is not None:
            self._current.done.set_exception(error)
            self._current = self._steps = None
