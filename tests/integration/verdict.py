"""Checks what came out of a deployment against the oracle. Reads topics only; shares no code with `worker`."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.integration.deployment import Read
from tests.oracle import Partition, event_time_ms, parse

EXPECT = "expect"
"""Header of a source record that the test knows to be bad; its value is the reason that is due."""


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
        self.erased: set[str] = set()
        for number, records in by_partition(source).items():
            partition = Partition()
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
            self.erased.discard(user)
        elif fate == "erased":
            self.newest_score.pop(user, None)
            self.erased.add(user)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.fates.values())

    def check_scores(self, scores: Sequence[Read], *, complete: bool = True) -> None:
        """Each due score once, with the oracle's digest; `complete`: every one (mode `every`)."""
        seen = Counter(score["score_id"] for score in map(value, scores))
        assert [id_ for id_, count in seen.items() if count > 1] == []
        assert set(seen) - set(self.digests) == set()
        if complete:
            assert set(self.digests) - set(seen) == set()
        for record in scores:
            score = value(record)
            score_id = score["score_id"]
            source = score["source"]
            assert score_id == f"{source['topic']}-{source['partition']}-{source['offset']}"
            assert score["window"]["digest"] == self.digests[score_id]
            assert score["window"]["events"] == self.kept[score_id]
            assert record.partition == source["partition"]
            assert record.key == score["user_id"].encode()
            assert record.headers["ce_id"].decode() == score_id
            assert all(0 <= chance <= 1 for chance in score["intent"].values())

    def check_order(self, scores: Sequence[Read]) -> None:
        """Within a partition, scores stand in the order of their events."""
        for records in by_partition(scores).values():
            offsets = [value(record)["source"]["offset"] for record in records]
            assert offsets == sorted(offsets)

    def check_latest(self, latest: Sequence[Read]) -> None:
        """After compaction each user's newest window has its score, and erased users have none."""
        table: dict[bytes, bytes | None] = {}
        for records in by_partition(latest).values():
            for record in records:
                assert record.key is not None
                table[record.key] = record.value
        left = {key.decode(): json.loads(score)["score_id"] for key, score in table.items() if score is not None}
        assert left == self.newest_score
        for user in self.erased:
            assert table[user.encode()] is None

    def check_dead_letters(self, letters: Sequence[Read], source: Sequence[Read]) -> None:
        """Each dead or late record once, as it came, with its coordinates and the reason."""
        originals = {(record.partition, record.offset): record for record in source}
        due = {place for place, fate in self.fates.items() if fate in ("dead", "late")}
        prefix = "__connect.errors."
        places = [
            (int(letter.headers[prefix + "partition"]), int(letter.headers[prefix + "offset"])) for letter in letters
        ]
        assert Counter(places) == Counter(due)
        for place, letter in zip(places, letters, strict=True):
            original = originals[place]
            assert (letter.key, letter.value, letter.timestamp_ms) == (
                original.key,
                original.value,
                original.timestamp_ms,
            )
            assert letter.headers[prefix + "topic"].decode() == self.topic
            reason = letter.headers[prefix + "exception.class.name"]
            assert reason == (original.headers.get(EXPECT) or b"late"), letter
            assert {name: letter.headers[name] for name in original.headers} == original.headers

    def check_fates(self, counted: Mapping[str, float]) -> None:
        """The worker's own counters: of a worker that was not restarted."""
        assert {fate: count for fate, count in counted.items() if count} == dict(self.counts)


def value(record: Read) -> dict[str, Any]:
    assert record.value is not None
    parsed: dict[str, Any] = json.loads(record.value)
    return parsed
