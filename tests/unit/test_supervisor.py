"""The campaign's supervisor: who ends is noted before another takes the place, whenever that was."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import process
from tests.chaos.workers import Place, Workers
from worker.settings import Settings


def test_one_that_ends_between_two_looks_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is alive when it is looked at for the first time, and has ended at the second."""
    spawned: list[Any] = []

    def spawn(*_: object, **__: object) -> tuple[Any, Any, Any]:
        looks = iter([True])
        spawned.append(SimpleNamespace(pid=1, exitcode=7, is_alive=lambda: next(looks, False)))
        said, says = multiprocessing.Pipe(duplex=False)
        says.close()
        return spawned[-1], SimpleNamespace(close=lambda: None), said

    monkeypatch.setattr(process, "spawn", spawn)
    workers = Workers([Settings()], residents=1, scorer="digest", folder=tmp_path)
    (place,) = workers.places
    rounds = iter([False] * 3)
    monkeypatch.setattr(workers, "_ended", SimpleNamespace(wait=lambda _: next(rounds, True)))
    place.start()
    workers._supervise()
    assert [ended.code for ended in place.exits] == [7]
    assert len(spawned) == 1  # its successor waits for the pause after a failure


def test_one_that_is_taken_down_while_it_is_looked_at_stays_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fault has the lock just before the supervisor, which has seen before that the worker is wanted."""
    workers = Workers([Settings()], residents=1, scorer="digest", folder=tmp_path)
    (place,) = workers.places
    spawned: list[None] = []
    monkeypatch.setattr(process, "spawn", lambda *_, **__: spawned.append(None))
    monkeypatch.setattr(place, "reap", lambda: None)
    monkeypatch.setattr(place, "_lock", Taken(place))
    rounds = iter([False])
    monkeypatch.setattr(workers, "_ended", SimpleNamespace(wait=lambda _: next(rounds, True)))
    place.wanted = True
    workers._supervise()
    assert spawned == []


class Taken:
    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        self._place.wanted = False

    def __exit__(self, *_: object) -> None:
        pass
