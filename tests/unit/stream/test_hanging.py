"""What is waited for before a partition begins: the end of its own former transactions, not that of everybody's."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from worker.stream import hanging, marks

SCORES = TopicPartition("scores", 0)


async def test_writers_that_never_rest_hold_up_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each look the last transaction is over and the next has begun."""
    written = 0

    async def ends(_: object, tps: Iterable[TopicPartition], isolation: int) -> dict[TopicPartition, int]:
        nonlocal written
        written += isolation == marks.COMMITTED
        return dict.fromkeys(tps, written + (isolation == marks.UNCOMMITTED))

    monkeypatch.setattr(marks, "ends", ends)
    monkeypatch.setattr(hanging, "_ASK_AGAIN_S", 0.0)
    sender: Any = None
    assert await asyncio.wait_for(hanging._left_open(sender, SCORES), 5) is None
