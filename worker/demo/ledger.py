"""The demo's own account of what became of every event, from the topics alone. Pure; nothing of the worker is used.

It knows the promise, not how it is kept: each source record has one fate that a reader can see (a score or a dead
letter), or a reason of its own to have none: it repeats an event of its user, or it erases, or, in mode `latest`, a
later event of the user was scored in its place. Anything else is lost.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

RECENT: Final = 128
"""A repeat is one of the same user's last 128 events; one that comes later counts as new."""

Place = tuple[int, int]
"""Partition and offset of a source record."""


class _Named(msgspec.Struct):
    """What tells one event from another."""

    event_id: str
    user_id: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of the events. The lists name the places where the promise is broken: all empty when it held."""

    events: int
    scored: int
    coalesced: int
    duplicate: int
    erased: int
    dead: Mapping[str, int]
    """By reason; `late` is one."""
    lost: list[Place] = field(default_factory=list)
    twice: list[Place] = field(default_factory=list)
    repeated: list[Place] = field(default_factory=list)
    """Scored although the same event of the same user had been scored shortly before."""
    mistaken: list[Place] = field(default_factory=list)
    """A score or dead letter without a source record, or of another event than the one in that place."""

    @property
    def fates(self) -> dict[str, int]:
        """Every fate, as the worker names them; they add up to `events` when nothing is lost."""
        late = self.dead.get("late", 0)
        return {
            "scored": self.scored,
            "coalesced": self.coalesced,
            "duplicate": self.duplicate,
            "late": late,
            "erased": self.erased,
            "dead": sum(self.dead.values()) - late,
        }

    @property
    def holds(self) -> bool:
        """Whether every event had exactly one fate."""
        return (
            not (self.lost or self.twice or self.repeated or self.mistaken) and sum(self.fates.values()) == self.events
        )


class Ledger:
    """Takes the records of the three topics in any order of topics, each partition in the order of its offsets."""

    def __init__(self) -> None:
        self._users: dict[int, array[int]] = defaultdict(lambda: array("q"))
        self._events: dict[int, array[int]] = defaultdict(lambda: array("q"))  # 0: unreadable, so it can only be dead
        self._erasing: set[Place] = set()
        self._scored: dict[Place, int] = {}
        self._dead: dict[Place, str] = {}
        self._twice: list[Place] = []

    def source(self, partition: int, offset: int, value: bytes | None) -> None:
        """One record of the events topic. Offsets of a partition come without gaps, from 0."""
        users, events = self._users[partition], self._events[partition]
        if offset != len(users):
            raise ValueError(f"offset {offset} of partition {partition} came where {len(users)} was due")
        try:
            named = msgspec.json.decode(value or b"", type=_Named)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            users.append(0)
            events.append(0)
            return
        users.append(hash(named.user_id))
        events.append(hash((named.user_id, named.event_id)) or 1)
        if named.type == "user.erase":
            self._erasing.add((partition, offset))

    def scored(self, place: Place, *, user_id: str, event_id: str) -> None:
        """One committed score."""
        self._once(place)
        self._scored[place] = hash((user_id, event_id)) or 1

    def dead(self, place: Place, reason: str) -> None:
        """One committed dead letter."""
        self._once(place)
        self._dead[place] = reason

    def verdict(self, *, may_coalesce: bool) -> Verdict:
        """Settles every record seen so far. `may_coalesce` is mode `latest`."""
        duplicate = coalesced = erased = 0
        lost: list[Place] = []
        repeated: list[Place] = []
        mistaken = [place for place in (*self._scored, *self._dead) if not self._knows(place)]
        for partition, users in self._users.items():
            told: Counter[int] = Counter()  # events folded so far, by user
            folded: dict[int, int] = {}  # event -> its number among its user's
            unanswered: dict[int, list[Place]] = defaultdict(list)  # by user: a later score may stand for these
            for offset, (user, event) in enumerate(zip(users, self._events[partition], strict=True)):
                place = (partition, offset)
                if place in self._dead:
                    continue
                score = self._scored.get(place)
                if place in self._erasing and score is None:
                    erased += 1
                    told[user] += RECENT  # the worker forgets the user, so nothing before is a repeat
                    continue
                known = event in folded and told[user] - folded[event] <= RECENT
                if score is not None:
                    if score != event:
                        mistaken.append(place)
                    elif known:
                        repeated.append(place)
                    coalesced += len(unanswered.pop(user, ()))
                elif known:
                    duplicate += 1
                    continue
                elif may_coalesce and event:
                    unanswered[user].append(place)
                else:
                    lost.append(place)
                    continue
                folded[event] = told[user]
                told[user] += 1
            lost += [place for places in unanswered.values() for place in places]
        return Verdict(
            events=sum(map(len, self._users.values())),
            scored=len(self._scored),
            coalesced=coalesced,
            duplicate=duplicate,
            erased=erased,
            dead=Counter(self._dead.values()),
            lost=sorted(lost),
            twice=sorted(self._twice),
            repeated=sorted(repeated),
            mistaken=sorted(mistaken),
        )

    def _once(self, place: Place) -> None:
        if place in self._scored or place in self._dead:
            self._twice.append(place)

    def _knows(self, place: Place) -> bool:
        partition, offset = place
        return 0 <= offset < len(self._users.get(partition, ()))
