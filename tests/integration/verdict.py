"""Compares what came out of a deployment with the oracle. Reads topics only; shares no code with `worker`.

Differences are told one by one, as sentences, so that a campaign can count them; `check_*` accept none.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tests.integration.deployment import Read
from tests.oracle import Partition, event_time_ms, parse

EXPECT = "expect"
"""Header of a source record that the test knows to be bad; its value is the reason that is due."""

ERRORS = "__connect.errors."
"""What the headers of a dead letter begin with."""


def by_partition(records: Iterable[Read]) -> Mapping[int, list[Read]]:
    split: dict[int, list[Read]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.partition, record.offset)):
        split[record.partition].append(record)
    return split


class Verdict:
    """What should have come out for these source records."""

    def __init__(self, topic: str, source: Sequence[Read]) -> None:
        self.topic = topic
        self.fates: dict[tuple[int, int], str] = {}
        self.digests: dict[str, str] = {}
        self.newest_score: dict[str, str] = {}
        self.kept: dict[str, int] = {}
        self.chances: dict[str, float] = {}
        self.erased: set[str] = set()
        self.partitions: dict[int, Partition] = {}
        for number, records in by_partition(source).items():
            partition = self.partitions[number] = Partition()
            for record in records:
                self._read(partition, number, record)

    def _read(self, partition: Partition, number: int, record: Read) -> None:
        place = (number, record.offset)
        if EXPECT in record.headers:
            self.fates[place] = "dead"
            return
        assert record.value is not None
        event = parse(record.value)
        user = event["user_id"]
        fate = partition.read(user, event["event_id"], event_time_ms(event["event_time"]), event["type"])
        self.fates[place] = "scored" if fate == "folded" else fate
        if fate == "folded":
            score_id = f"{self.topic}-{number}-{record.offset}"
            self.digests[score_id] = partition.digest(user)
            self.newest_score[user] = score_id
            self.kept[score_id] = len(partition.users[user].kept)
            self.chances[score_id] = partition.chance(user)
            self.erased.discard(user)
        elif fate == "erased":
            self.newest_score.pop(user, None)
            self.erased.add(user)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.fates.values())

    @property
    def expired(self) -> set[str]:
        """Users whose newest score may have gone from `latest` by now, or not yet."""
        return {user for partition in self.partitions.values() for user in partition.users if partition.expired(user)}

    def check_scores(self, scores: Sequence[Read], *, complete: bool = True) -> None:
        """Each due score once, with the oracle's digest; `complete`: every one (mode `every`)."""
        assert self.lost(scores) == [] or not complete
        assert self.repeated(scores) == []
        assert list(self.wrong_scores(scores)) == []

    def lost(self, scores: Sequence[Read]) -> list[str]:
        """Due scores that are not there."""
        return sorted(self.digests.keys() - {value(score)["score_id"] for score in scores})

    def repeated(self, scores: Sequence[Read]) -> list[str]:
        """Scores that are there more than once."""
        seen = Counter(value(score)["score_id"] for score in scores)
        return sorted(score_id for score_id, count in seen.items() if count > 1)

    def wrong_scores(self, scores: Sequence[Read]) -> Iterator[str]:
        """Scores that no event called for, or of another window than the event's: by what they say of it, and those of
        the model `digest` by what they are.
        """
        for record in scores:
            score = value(record)
            score_id = score["score_id"]
            source = score["source"]
            found = (
                f"{source['topic']}-{source['partition']}-{source['offset']}",
                score["window"]["digest"],
                score["window"]["events"],
                record.partition,
                record.key,
                record.headers["ce_id"].decode(),
                all(0 <= chance <= 1 for chance in score["intent"].values()),
                list(score["intent"].values())[1:] if score["model"]["name"] == "digest" else [],
            )
            digest, kept = self.digests.get(score_id), self.kept.get(score_id)
            chances = [self.chances.get(score_id)] * len(found[-1])
            due = (score_id, digest, kept, source["partition"], score["user_id"].encode(), score_id, True, chances)
            if found != due:
                yield f"score {score_id} is {found}, due is {due}"

    def check_order(self, scores: Sequence[Read]) -> None:
        assert list(self.disorder(scores)) == []

    def disorder(self, scores: Sequence[Read]) -> Iterator[str]:
        """Within a partition, scores stand in the order of their events."""
        for records in by_partition(scores).values():
            for before, after in pairwise(value(record)["source"]["offset"] for record in records):
                if after <= before:
                    yield f"partition {records[0].partition}: the score of offset {after} stands behind {before}'s"

    def check_latest(self, latest: Sequence[Read]) -> None:
        assert list(self.wrong_latest(latest)) == []

    def wrong_latest(self, latest: Sequence[Read]) -> Iterator[str]:
        """After compaction each user's newest window has its score, erased users have none, expired ones perhaps."""
        table: dict[str, str | None] = {}
        for records in by_partition(latest).values():
            for record in records:
                assert record.key is not None
                table[record.key.decode()] = None if record.value is None else value(record)["score_id"]
        expired = self.expired
        for user in table.keys() | self.newest_score.keys() | self.erased:
            due = self.newest_score.get(user)
            found = table.get(user, "nothing")
            if found != due and not (user in expired and found is None):
                yield f"the latest score of {user} is {found}, due is {due}"

    def check_dead_letters(self, letters: Sequence[Read], source: Sequence[Read]) -> None:
        assert list(self.wrong_dead_letters(letters, source)) == []

    def wrong_dead_letters(self, letters: Sequence[Read], source: Sequence[Read]) -> Iterator[str]:
        """Each dead or late record once, as it came, with its coordinates and the reason."""
        originals = {(record.partition, record.offset): record for record in source}
        due = Counter(place for place, fate in self.fates.items() if fate in ("dead", "late"))
        there = Counter(map(coordinates, letters))
        for place, count in (due - there).items():
            yield f"{count} dead letter of {place} is missing"
        for place, count in (there - due).items():
            yield f"{count} dead letter of {place} is too many"
        for letter in letters:
            original = originals[coordinates(letter)]
            whole = kept(original)
            for name in ("key", "value"):
                if getattr(letter, name) != getattr(whole, name):
                    yield f"the dead letter of {coordinates(letter)} has another {name} than its record"
            reason = original.headers.get(EXPECT) or b"late"
            wanted = {
                **whole.headers,
                f"{ERRORS}topic": self.topic.encode(),
                f"{ERRORS}timestamp": str(whole.timestamp_ms).encode(),
                f"{ERRORS}exception.class.name": reason,
            }
            found = {name: letter.headers.get(name) for name in wanted}
            if found != wanted:
                yield f"the dead letter of {coordinates(letter)} says {found}, due is {wanted}"

    def check_fates(self, counted: Mapping[str, float]) -> None:
        """The worker's own counters: of a worker that was not restarted."""
        assert {fate: count for fate, count in counted.items() if count} == dict(self.counts)


def coordinates(letter: Read) -> tuple[int, int]:
    """The source partition and offset that a dead letter names."""
    return int(letter.headers[f"{ERRORS}partition"]), int(letter.headers[f"{ERRORS}offset"])


def kept(record: Read) -> Read:
    """What a dead letter keeps of its record: all of it, or the beginning of one that no topic of letters takes."""
    headers = sum(len(name) + len(text) + 10 for name, text in record.headers.items())
    size = len(record.key or b"") + len(record.value or b"") + headers
    if size <= 15 << 20:
        return record
    return replace(
        record,
        key=(record.key or b"")[: 1 << 10],
        value=(record.value or b"")[: 128 << 10],
        headers={"intent.cut-from-bytes": str(size).encode()},
    )


def value(record: Read) -> dict[str, Any]:
    assert record.value is not None
    parsed: dict[str, Any] = json.loads(record.value)
    return parsed
