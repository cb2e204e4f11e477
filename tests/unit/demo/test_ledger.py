import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from worker.demo.ledger import RECENT, Ledger, Place, Verdict


def event(user: str, name: str, kind: str = "page_view") -> bytes:
    return json.dumps({"event_id": name, "user_id": user, "type": kind}).encode()


@dataclass
class Story:
    """Source records of partition 0 (user, event) or raw bytes, what came out, and what the ledger must say."""

    source: Sequence[tuple[str, str] | tuple[str, str, str] | bytes | None]
    scored: Sequence[tuple[int, str, str]] = ()
    dead: Sequence[tuple[int, str]] = ()
    may_coalesce: bool = False
    fates: dict[str, int] = field(default_factory=dict)
    lost: Sequence[Place] = ()
    twice: Sequence[Place] = ()
    repeated: Sequence[Place] = ()
    mistaken: Sequence[Place] = ()

    def verdict(self) -> Verdict:
        ledger = Ledger()
        for offset, record in enumerate(self.source):
            ledger.source(0, offset, event(*record) if isinstance(record, tuple) else record)
        for offset, user, name in self.scored:
            ledger.scored((0, offset), user_id=user, event_id=name)
        for offset, reason in self.dead:
            ledger.dead((0, offset), reason)
        return ledger.verdict(may_coalesce=self.may_coalesce)


AB = [("u", "a"), ("u", "b")]
MANY = [("u", f"e{number}") for number in range(RECENT)]

STORIES = {
    "nothing at all": Story([]),
    "all scored": Story(AB, [(0, "u", "a"), (1, "u", "b")], fates={"scored": 2}),
    "one lost": Story(AB, [(1, "u", "b")], fates={"scored": 1}, lost=[(0, 0)]),
    "the last one lost": Story(AB, [(0, "u", "a")], fates={"scored": 1}, lost=[(0, 1)]),
    "a score twice": Story(AB, [(0, "u", "a"), (1, "u", "b"), (0, "u", "a")], fates={"scored": 2}, twice=[(0, 0)]),
    "scored and dead": Story(
        [("u", "a")], [(0, "u", "a")], [(0, "schema")], fates={"scored": 1, "dead": 1}, twice=[(0, 0)]
    ),
    "dead twice": Story([b"{"], [], [(0, "json"), (0, "json")], fates={"dead": 1}, twice=[(0, 0)]),
    "a duplicate has no score": Story([("u", "a"), ("u", "a")], [(0, "u", "a")], fates={"scored": 1, "duplicate": 1}),
    "another user's event of that name is none": Story(
        [("u", "a"), ("v", "a")], [(0, "u", "a")], fates={"scored": 1}, lost=[(0, 1)]
    ),
    "a duplicate is not scored again": Story(
        [("u", "a"), ("u", "a")], [(0, "u", "a"), (1, "u", "a")], fates={"scored": 2}, repeated=[(0, 1)]
    ),
    "a repeat of the oldest of the recent": Story(
        [*MANY, ("u", "e0")],
        [(offset, *record) for offset, record in enumerate(MANY)],
        fates={"scored": RECENT, "duplicate": 1},
    ),
    "a repeat of an older one counts as new": Story(
        [*MANY, ("u", "x"), ("u", "e0")],
        [*((offset, *record) for offset, record in enumerate(MANY)), (RECENT, "u", "x"), (RECENT + 1, "u", "e0")],
        fates={"scored": RECENT + 2},
    ),
    "a repeat of a dead one is lost": Story(
        [("u", "a"), ("u", "a")], [], [(0, "late")], fates={"late": 1}, lost=[(0, 1)]
    ),
    "late and dead are told apart": Story(
        [("u", "a"), b"\xff", None, b'{"x":1}'],
        [],
        [(0, "late"), (1, "json"), (2, "empty"), (3, "schema")],
        fates={"late": 1, "dead": 3},
    ),
    "unreadable without a dead letter": Story([b"{"], fates={}, lost=[(0, 0)]),
    "a score of something unreadable": Story([b"{"], [(0, "u", "a")], fates={"scored": 1}, mistaken=[(0, 0)]),
    "a score of another event": Story(AB[:1], [(0, "u", "b")], fates={"scored": 1}, mistaken=[(0, 0)]),
    "a score of another user": Story(AB[:1], [(0, "v", "a")], fates={"scored": 1}, mistaken=[(0, 0)]),
    "a score from nowhere": Story([], [(7, "u", "a")], fates={"scored": 1}, mistaken=[(0, 7)]),
    "a dead letter from nowhere": Story([], [], [(7, "json")], fates={"dead": 1}, mistaken=[(0, 7)]),
    "an erasure has no score": Story(
        [("u", "a"), ("u", "x", "user.erase")], [(0, "u", "a")], fates={"scored": 1, "erased": 1}
    ),
    "after an erasure nothing is a repeat": Story(
        [("u", "a"), ("u", "x", "user.erase"), ("u", "a")],
        [(0, "u", "a"), (2, "u", "a")],
        fates={"scored": 2, "erased": 1},
    ),
    "in mode latest a newer score stands for the older": Story(
        [("u", "a"), ("v", "c"), ("u", "b")],
        [(1, "v", "c"), (2, "u", "b")],
        may_coalesce=True,
        fates={"scored": 2, "coalesced": 1},
    ),
    "in mode latest all that are passed over are counted": Story(
        [("u", "a"), ("u", "b"), ("v", "c"), ("u", "d"), ("v", "e")],
        [(3, "u", "d"), (4, "v", "e")],
        may_coalesce=True,
        fates={"scored": 2, "coalesced": 3},
    ),
    "in mode latest the newest must be scored": Story(
        AB, [(0, "u", "a")], may_coalesce=True, fates={"scored": 1}, lost=[(0, 1)]
    ),
    "in mode latest another user's score stands for nothing": Story(
        [("u", "a"), ("v", "b")], [(1, "v", "b")], may_coalesce=True, fates={"scored": 1}, lost=[(0, 0)]
    ),
    "in mode latest a repeat of one passed over is a duplicate": Story(
        [("u", "a"), ("u", "a"), ("u", "b")],
        [(2, "u", "b")],
        may_coalesce=True,
        fates={"scored": 1, "coalesced": 1, "duplicate": 1},
    ),
    "in mode every nothing is passed over": Story(AB, [(1, "u", "b")], fates={"scored": 1}, lost=[(0, 0)]),
}


@pytest.mark.parametrize("name", STORIES)
def test_the_ledger_says_what_became_of_every_event(name: str) -> None:
    story = STORIES[name]
    verdict = story.verdict()
    assert {fate: count for fate, count in verdict.fates.items() if count} == story.fates
    assert verdict.lost == list(story.lost)
    assert verdict.twice == list(story.twice)
    assert verdict.repeated == list(story.repeated)
    assert verdict.mistaken == list(story.mistaken)
    assert verdict.events == len(story.source)
    assert verdict.holds == (not (story.lost or story.twice or story.repeated or story.mistaken))


def test_a_gap_in_the_source_is_not_passed_over() -> None:
    ledger = Ledger()
    ledger.source(0, 0, event("u", "a"))
    with pytest.raises(ValueError, match="offset 2 of partition 0 came where 1 was due"):
        ledger.source(0, 2, event("u", "c"))


def test_partitions_are_apart() -> None:
    ledger = Ledger()
    for partition in (0, 1):
        ledger.source(partition, 0, event(f"u{partition}", "a"))
    ledger.scored((1, 0), user_id="u1", event_id="a")
    assert ledger.verdict(may_coalesce=False).lost == [(0, 0)]
