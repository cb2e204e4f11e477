"""What a log's clients saw, and what no correct log can show them: pure functions over sends and polls.

The anomalies are those that Jepsen's Kafka tests look for (jepsen.tests.kafka), as far as they apply to readers that
are told their partitions: nobody rebalances them, so every step back and every gap is one. A value stands for itself:
two sends of the same bytes must carry different values.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

UNKNOWN: Final = -1
"""The offset of a write that was acknowledged without one."""


class Entry(NamedTuple):
    """One place in the log and what is there."""

    partition: str
    offset: int
    value: str


@dataclass(frozen=True, slots=True)
class Send:
    """A write that the broker acknowledged, in the order in which its sender issued it."""

    sender: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Poll:
    """One answer to a reader. A reader's polls stand in the order in which it made them."""

    reader: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """`kind` is Jepsen's name for it."""

    kind: str
    text: str


def anomalies(sends: Sequence[Send], polls: Sequence[Poll], *, repeats: bool = False) -> list[Anomaly]:
    """All of them. `repeats`: values may lawfully stand at several offsets, as those of aborted transactions do."""
    return [
        *lost_writes(sends, polls),
        *unseen(sends, polls),
        *inconsistent_offsets(sends, polls),
        *([] if repeats else duplicates(sends, polls)),
        *nonmonotonic_sends(sends),
        *nonmonotonic_polls(polls),
        *skips(sends, polls),
    ]


def lost_writes(sends: Sequence[Send], polls: Sequence[Poll]) -> list[Anomaly]:
    """Acknowledged, never polled, though something behind it was: no reader will ever get it."""
    seen = {entry.value for poll in polls for entry in poll.entries}
    furthest = _furthest(polls)
    return [
        Anomaly("lost write", f"{send.entry} was acknowledged, and readers went past it without it")
        for send in sends
        if send.entry.value not in seen and send.entry.offset < furthest.get(send.entry.partition, -1)
    ]


def unseen(sends: Sequence[Send], polls: Sequence[Poll]) -> list[Anomaly]:
    """Acknowledged, never polled, and nothing behind it was: once readers have reached the end there is none."""
    seen = {entry.value for poll in polls for entry in poll.entries}
    furthest = _furthest(polls)
    return [
        Anomaly("unseen", f"{send.entry} was acknowledged and nobody got so far")
        for send in sends
        if send.entry.value not in seen and send.entry.offset >= furthest.get(send.entry.partition, -1)
    ]


def duplicates(sends: Sequence[Send], polls: Sequence[Poll]) -> list[Anomaly]:
    """One value at two places."""
    places: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for entry in _entries(sends, polls):
        places[entry.value].add((entry.partition, entry.offset))
    return [
        Anomaly("duplicate", f"{value} stands at {sorted(where)}") for value, where in places.items() if len(where) > 1
    ]


def inconsistent_offsets(sends: Sequence[Send], polls: Sequence[Poll]) -> list[Anomaly]:
    """Two values at one place: readers disagree about the log, or with who wrote it."""
    values: dict[tuple[str, int], set[str]] = defaultdict(set)
    for entry in _entries(sends, polls):
        values[entry.partition, entry.offset].add(entry.value)
    return [
        Anomaly("inconsistent offset", f"partition {partition}, offset {offset} holds {sorted(those)}")
        for (partition, offset), those in values.items()
        if len(those) > 1
    ]


def nonmonotonic_sends(sends: Sequence[Send]) -> list[Anomaly]:
    """A sender's later write went before its earlier one."""
    found = []
    last: dict[tuple[str, str], Entry] = {}
    for send in sends:
        if send.entry.offset == UNKNOWN:
            continue
        before = last.get((send.sender, send.entry.partition))
        if before is not None and send.entry.offset <= before.offset:
            found.append(Anomaly("nonmonotonic send", f"{send.sender} wrote {before}, then {send.entry}"))
        last[send.sender, send.entry.partition] = send.entry
    return found


def nonmonotonic_polls(polls: Sequence[Poll]) -> list[Anomaly]:
    """Offsets go back: within one answer (internal), or from a reader's answer to its next (external)."""
    return [
        Anomaly(f"{where} nonmonotonic poll", f"{reader} got {before}, then {after}")
        for where, reader, before, after in _steps(polls)
        if after.offset <= before.offset
    ]


def skips(sends: Sequence[Send], polls: Sequence[Poll]) -> list[Anomaly]:
    """A reader went past a value that others know to be there: within one answer, or between two.

    Readers of one isolation level only: those of committed records lawfully skip the others.
    """
    known: dict[str, dict[int, str]] = defaultdict(dict)
    for entry in _entries(sends, polls):
        known[entry.partition][entry.offset] = entry.value
    found = []
    for where, reader, before, after in _steps(polls):
        missed = [known[after.partition].get(offset) for offset in range(before.offset + 1, after.offset)]
        if left := [value for value in missed if value is not None]:
            found.append(Anomaly(f"{where} poll skip", f"{reader} got {before}, then {after}, without {left[:3]}"))
    return found


def _steps(polls: Sequence[Poll]) -> Iterator[tuple[str, str, Entry, Entry]]:
    """(internal or external, reader, entry, the next entry of that partition)."""
    last: dict[tuple[str, str], Entry] = {}
    for poll in polls:
        mine: dict[str, list[Entry]] = defaultdict(list)
        for entry in poll.entries:
            mine[entry.partition].append(entry)
        for partition, entries in mine.items():
            if (before := last.get((poll.reader, partition))) is not None:
                yield "external", poll.reader, before, entries[0]
            yield from (("internal", poll.reader, one, other) for one, other in pairwise(entries))
            last[poll.reader, partition] = entries[-1]


def _entries(sends: Iterable[Send], polls: Iterable[Poll]) -> Iterator[Entry]:
    yield from (send.entry for send in sends if send.entry.offset != UNKNOWN)
    yield from (entry for poll in polls for entry in poll.entries)


def _furthest(polls: Iterable[Poll]) -> dict[str, int]:
    furthest: dict[str, int] = {}
    for poll in polls:
        for entry in poll.entries:
            furthest[entry.partition] = max(entry.offset, furthest.get(entry.partition, -1))
    return furthest
