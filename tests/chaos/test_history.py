"""Each anomaly, shown by a history that has it, and a clean history that has none."""

import pytest

from tests.chaos import history
from tests.chaos.history import Entry, Poll, Send


def at(offset: int, value: str | None = None, partition: str = "0") -> Entry:
    return Entry(partition, offset, value or f"v{partition}.{offset}")


def sent(*entries: Entry, sender: str = "shop") -> list[Send]:
    return [Send(sender, entry) for entry in entries]


def poll(*entries: Entry, reader: str = "r") -> Poll:
    return Poll(reader, entries)


CLEAN = (
    sent(at(0), at(1), at(5), at(0, partition="1")),
    [poll(at(0), at(0, partition="1")), poll(at(1), at(5)), poll(at(0), at(1), at(5), reader="late riser")],
)

BROKEN = {
    "lost write": (sent(at(0), at(1), at(2)), [poll(at(0)), poll(at(2))]),
    "unseen": (sent(at(0), at(1)), [poll(at(0))]),
    "duplicate": (sent(at(0, "a")), [poll(at(0, "a"), at(1, "a"))]),
    "inconsistent offset": ([], [poll(at(0, "a")), poll(at(0, "b"), reader="other")]),
    "nonmonotonic send": (sent(at(1), at(0)), [poll(at(0), at(1))]),
    "internal nonmonotonic poll": ([], [poll(at(1), at(0))]),
    "external nonmonotonic poll": ([], [poll(at(0), at(1)), poll(at(1))]),
    "internal poll skip": ([], [poll(at(0), at(2)), poll(at(0), at(1), at(2), reader="other")]),
    "external poll skip": ([], [poll(at(0)), poll(at(2)), poll(at(0), at(1), at(2), reader="other")]),
}


def test_a_clean_history_has_no_anomaly() -> None:
    assert history.anomalies(*CLEAN) == []


@pytest.mark.parametrize("kind", BROKEN)
def test_an_anomaly_is_found(kind: str) -> None:
    assert kind in {anomaly.kind for anomaly in history.anomalies(*BROKEN[kind])}


@pytest.mark.parametrize("kind", BROKEN)
def test_only_the_planted_anomaly_and_its_kin_are_found(kind: str) -> None:
    """A lost write is a gap, too; everything else has one name."""
    kin = {"lost write": {"lost write", "external poll skip"}}
    assert {anomaly.kind for anomaly in history.anomalies(*BROKEN[kind])} == kin.get(kind, {kind})


def test_readers_are_told_apart() -> None:
    assert history.nonmonotonic_polls([poll(at(3)), poll(at(0), reader="other")]) == []


def test_senders_are_told_apart() -> None:
    assert history.nonmonotonic_sends(sent(at(3)) + sent(at(0), sender="other")) == []


def test_partitions_are_told_apart() -> None:
    assert history.anomalies([], [poll(at(3), at(0, partition="1"))]) == []


def test_a_write_whose_place_is_unknown_is_missed_all_the_same() -> None:
    sends = sent(at(0), at(-1, "somewhere"), at(2))
    assert history.anomalies(sends, [poll(at(0), at(1, "somewhere"), at(2))]) == []
    assert {anomaly.kind for anomaly in history.anomalies(sends, [poll(at(0), at(2))])} == {"lost write"}


def test_repeats_may_be_lawful() -> None:
    again = [poll(at(0, "a"), at(1, "a"))]
    assert history.anomalies([], again, repeats=True) == []
