"""Readers who see nothing find nothing: that is told."""

from typing import Any

import pytest

from tests.chaos import world
from tests.chaos.world import Published
from tests.integration.deployment import Read
from worker.settings import Settings


class Blind:
    """A follower to whom nothing comes."""

    def __init__(self, *_: Any, name: str, partitions: int, **__: Any) -> None:
        self.name = name
        self.furthest = [-1] * partitions
        self.errors: list[str] = []

    def close(self) -> None:
        pass


def test_a_reader_who_does_not_come_to_the_end_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "Follower", Blind)
    monkeypatch.setattr(world, "read_all", lambda *_, **__: [Read(1, 7, b"user", b"score", {}, 0)])
    monkeypatch.setattr(world, "DRAIN_S", 0.0)
    published = Published(Settings())
    published.end_life()
    assert published.errors == [
        f"{isolation} got up to [-1, -1, -1, -1] and not to the end, {{1: 7}}"
        for isolation in ("read_committed", "read_uncommitted")
    ]
