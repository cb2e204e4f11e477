"""No assignment is made of topics that are not all there, or that do not go together."""

from types import SimpleNamespace
from typing import Any

import pytest
from faust.assignor.partition_assignor import PartitionAssignor

from worker.errors import Fatal
from worker.stream.assignor import Assignor

MEMBERS = {"a": SimpleNamespace(subscription=["events", "changelog"]), "b": SimpleNamespace(subscription=["events"])}


class Cluster:
    def __init__(self, **partitions: set[int]) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return self._partitions.get(topic)


@pytest.fixture
def assignor(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(PartitionAssignor, "assign", lambda *_: "assigned")
    return Assignor.__new__(Assignor)


@pytest.mark.parametrize("known", [{}, {"events": {0}}, {"events": set(), "changelog": {0}}], ids=str)
def test_a_topic_that_the_brokers_do_not_list_refuses_the_assignment(assignor: Any, known: dict[str, set[int]]) -> None:
    with pytest.raises(Fatal, match=r"the brokers do not list .*(events|changelog)"):
        assignor.assign(Cluster(**known), MEMBERS)


def test_a_partition_that_was_added_to_one_topic_refuses_the_assignment(assignor: Any) -> None:
    with pytest.raises(Fatal, match=r"unlike numbers of partitions \(changelog has 1, events has 2\)"):
        assignor.assign(Cluster(events={0, 1}, changelog={0}), MEMBERS)


def test_with_all_topics_it_is_fausts_own(assignor: Any) -> None:
    assert assignor.assign(Cluster(events={0}, changelog={0}), MEMBERS) == "assigned"
