"""When a commit counts as seen, by what brokers say of the readers' end. Real ones are in `tests/integration`."""

import asyncio
import math
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka.structs import TopicPartition
from structlog.testing import capture_logs

from worker.stream import marks

SCORES, LATEST = TopicPartition("scores", 0), TopicPartition("latest", 0)


class Brokers:
    """At each question the next of the answers that were given to it, and the last again."""

    def __init__(self, *ends: dict[TopicPartition, int], still_open: Iterable[set[TopicPartition]] = ()) -> None:
        self._ends, self._open = list(ends), list(still_open)
        self.asked_ends: list[set[TopicPartition]] = []
        self.asked_open: list[set[TopicPartition]] = []

    async def ends(self, _: object, tps: Iterable[TopicPartition], isolation: int) -> dict[TopicPartition, int]:
        assert isolation == marks.COMMITTED
        self.asked_ends.append(set(tps))
        return self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]

    async def open(self, _: object, tps: Iterable[TopicPartition]) -> set[TopicPartition]:
        self.asked_open.append(set(tps))
        return self._open.pop(0)


async def seen(brokers: Brokers, monkeypatch: pytest.MonkeyPatch, *, patient_s: float, **last: int) -> None:
    monkeypatch.setattr(marks, "ends", brokers.ends)
    monkeypatch.setattr(marks, "_open", brokers.open)
    monkeypatch.setattr(marks, "_PATIENT_S", patient_s)
    monkeypatch.setattr(marks, "_FIRST_PAUSE_S", 0.0)
    sender: Any = None
    await asyncio.wait_for(marks.seen(sender, {TopicPartition(topic, 0): at for topic, at in last.items()}), 5)


async def test_a_commit_is_seen_once_readers_stand_behind_its_last_record(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers({SCORES: 5, LATEST: 9}, {SCORES: 5}, {SCORES: 6})
    await seen(brokers, monkeypatch, patient_s=math.inf, scores=5, latest=8)
    assert brokers.asked_ends == [{SCORES, LATEST}, {SCORES}, {SCORES}]
    assert brokers.asked_open == []


async def test_behind_open_transactions_of_others_it_is_seen_once_its_own_are_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brokers = Brokers({SCORES: 1, LATEST: 1}, still_open=[{SCORES}, set()])
    await seen(brokers, monkeypatch, patient_s=-1.0, scores=5, latest=8)
    assert brokers.asked_ends == [{SCORES, LATEST}, {SCORES}]
    assert brokers.asked_open == [{SCORES, LATEST}, {SCORES}]


async def test_marks_that_stay_out_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_WORTH_TELLING_S", -1.0)
    brokers = Brokers({SCORES: 0}, {SCORES: 0}, {SCORES: 6})
    with capture_logs() as log:
        await seen(brokers, monkeypatch, patient_s=math.inf, scores=5)
    assert [(line["log_level"], line["partitions"]) for line in log] == [("warning", [SCORES])]
