"""What is waited for before a partition begins: the end of its own former transactions, not that of everybody's. And
how each of them ends. No broker: the topics' ends, what is in them and who writes are told here.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition
from structlog.testing import capture_logs

from worker import watermark
from worker.errors import Fatal
from worker.settings import Settings
from worker.stream import hanging, marks
from worker.watermark import Watermark

CHANGELOG, SCORES, LETTERS = (TopicPartition(topic, 0) for topic in ("changelog", "scores", "letters"))
NOW_MS = 1_790_000_000_000
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Rec:
    offset: int
    headers: int | None = None
    """Of which source offset an output's record is: what `Topics.place` makes of it here."""
    key: bytes = b"ann"
    value: bytes = b""
    timestamp: int = NOW_MS


def mark(offset: int, done: int) -> Rec:
    """A watermark in the changelog."""
    return Rec(offset, key=watermark.KEY, value=Watermark(done).encode())


@dataclass
class Log:
    """One partition of a topic; from `hangs` on nobody knows what counts. Without: all does."""

    records: Sequence[Rec] = ()
    hangs: int | None = None
    begins: int = 0
    aborted: Collection[int] = ()

    @property
    def end(self) -> int:
        """Behind a marker, which is no record."""
        return self.records[-1].offset + 2 if self.records else self.begins

    @property
    def stable(self) -> int:
        return self.end if self.hangs is None else self.hangs


@dataclass
class Kafka:
    """Also the sender, and what makes consumers."""

    logs: Mapping[TopicPartition, Log]
    forgotten: bool = False
    """The producer of what hangs: what this one ends is not that."""
    refused: TopicPartition | None = None
    """May not be read."""
    told: list[str] = field(default_factory=list)
    read: list[tuple[TopicPartition, int]] = field(default_factory=list)
    """Records that were handed out."""
    open: int = 0
    """Consumers."""

    def topics(self) -> Any:
        outputs = [tp.topic for tp in self.logs if tp != CHANGELOG]
        return hanging.Topics(CHANGELOG.topic, outputs, place=lambda headers: headers, reader=self.reader)  # type: ignore[arg-type, return-value]

    def reader(self, isolation: str) -> Any:
        return Consumer(self, committed=isolation == "read_committed")

    async def ends(self, _: object, tps: Iterable[TopicPartition], isolation: int) -> dict[TopicPartition, int]:
        return {tp: self.logs[tp].stable if isolation == marks.COMMITTED else self.logs[tp].end for tp in tps}

    async def begin_transaction(self) -> None:
        self.told.append("begin")

    def add(self, _: object, topics: Iterable[str], partition: int) -> None:
        self.told.append(f"add {','.join(topics)} {partition}")

    async def commit_transaction(self) -> None:
        self.told.append("commit")

    async def abort_transaction(self) -> None:
        self.told.append("abort")

    async def seen(self, _: object, last: Mapping[TopicPartition, int]) -> None:
        self.told.append(f"seen {','.join(f'{tp.topic} {offset}' for tp, offset in last.items())}")
        for tp in last:
            if not self.forgotten:
                self.logs[tp].hangs = None


class Consumer:
    """Hands out two records at a time, as a fetch may end anywhere."""

    def __init__(self, kafka: Kafka, *, committed: bool) -> None:
        self._kafka = kafka
        self._committed = committed
        self._at = 0

    async def start(self) -> None:
        self._kafka.open += 1

    async def stop(self) -> None:
        self._kafka.open -= 1

    def assign(self, tps: Sequence[TopicPartition]) -> None:
        (self._tp,) = tps

    def seek(self, tp: TopicPartition, offset: int) -> None:
        assert tp == self._tp
        assert offset >= self._kafka.logs[tp].begins, "out of range"
        self._at = offset

    async def position(self, tp: TopicPartition) -> int:
        assert tp == self._tp
        return self._at

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self._kafka.logs[tp].begins for tp in tps}

    async def getmany(self, tp: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Rec]]:  # noqa: ARG002 - theirs
        if tp == self._kafka.refused:
            raise TopicAuthorizationFailedError
        log = self._kafka.logs[tp]
        end = log.stable if self._committed else log.end
        assert self._at < end, "it would wait for ever"
        some = [record for record in log.records if self._at <= record.offset < end][:2]
        self._at = some[-1].offset + 1 if some else end
        if self._committed:
            some = [record for record in some if record.offset not in log.aborted]
        self._kafka.read += [(tp, record.offset) for record in some]
        return {tp: some} if some else {}


Made = Callable[..., Kafka]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    def make(logs: Mapping[TopicPartition, Log], **how: Any) -> Kafka:
        kafka = Kafka(logs, **how)
        monkeypatch.setattr(marks, "ends", kafka.ends)
        monkeypatch.setattr(marks, "seen", kafka.seen)
        monkeypatch.setattr(hanging, "add", kafka.add)
        monkeypatch.setattr(hanging, "_SETTLED_S", -1.0)  # nobody gets on with it
        monkeypatch.setattr(hanging, "_ASK_AGAIN_S", 0.0)
        monkeypatch.setattr(hanging, "_CHUNKS", (2, 4))
        return kafka

    return make


async def ended(kafka: Kafka) -> int | None:
    sender: Any = kafka
    stray = await asyncio.wait_for(hanging.end(sender, kafka.topics(), partition=0), 5)
    assert kafka.open == 0
    return stray


async def settled(kafka: Kafka, done: int) -> list[str]:
    sender: Any = kafka
    await asyncio.wait_for(hanging.settle(sender, kafka.topics(), partition=0, done=done), 5)
    assert kafka.open == 0
    return kafka.told


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


async def test_what_gets_on_is_given_its_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three transactions of others, each of which takes as long as is waited for: none of them hangs, a fourth does."""
    stables = [0, 0, 2, 2, 4, 4, 6, 6, 6]
    now = [0.0]

    async def ends(_: object, tps: Iterable[TopicPartition], isolation: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 9 if isolation == marks.UNCOMMITTED else stables.pop(0))

    async def slept(_: float) -> None:
        now[0] += hanging._SETTLED_S

    monkeypatch.setattr(marks, "ends", ends)
    monkeypatch.setattr("worker.stream.hanging.time.monotonic", lambda: now[0])
    monkeypatch.setattr("worker.stream.hanging.asyncio.sleep", slept)
    sender: Any = None
    assert await hanging._left_open(sender, SCORES) == 6
    assert stables == []


# -- the changelog -----------------------------------------------------------------------------------------------------


async def test_where_nothing_hangs_no_transaction_begins_and_nothing_is_read(made: Made) -> None:
    kafka = made({CHANGELOG: Log([mark(0, 5)]), SCORES: Log([Rec(0, 5)])})
    assert await ended(kafka) is None
    assert (kafka.told, kafka.read) == ([], [])


BEFORE, HANGS = [mark(0, 8), mark(1, 10), Rec(3)], [Rec(5), mark(6, 14)]
"""Events up to 10 are done, and a window is committed behind that; those up to 14 are what hangs from 5 on."""


@pytest.mark.parametrize(
    ("outputs", "shown"),
    [
        pytest.param({}, False, id="nowhere"),
        pytest.param({SCORES: Log([Rec(0, 10)])}, False, id="the last of what is done"),
        pytest.param({SCORES: Log([Rec(0, 11)])}, True, id="its first event"),
        pytest.param({SCORES: Log([Rec(0, 14)])}, True, id="its last event"),
        pytest.param({SCORES: Log([Rec(0, 15)])}, False, id="an event behind it"),
        pytest.param({SCORES: Log([Rec(0, 12)], aborted=[0])}, False, id="in what a former owner did not end"),
        pytest.param({SCORES: Log([Rec(0, 12)], hangs=0)}, False, id="in what hangs there as well"),
        pytest.param({SCORES: Log([Rec(0, 9), *map(Rec, range(1, 40))])}, False, id="only others' behind it"),
        pytest.param({SCORES: Log([Rec(0, 12), *map(Rec, range(1, 40))])}, True, id="behind many of others"),
        pytest.param({SCORES: Log([Rec(0, 12), Rec(1, 15)])}, True, id="behind one that is none of it"),
        pytest.param({SCORES: Log([Rec(0, 9)]), LETTERS: Log([Rec(0, 12)])}, True, id="in another topic"),
        pytest.param({SCORES: Log([Rec(7, 12)], begins=7)}, True, id="in a topic whose beginning is gone"),
    ],
)
async def test_what_hangs_counts_where_an_output_shows_any_of_it(
    made: Made, outputs: Mapping[TopicPartition, Log], *, shown: bool
) -> None:
    logs = {SCORES: Log(), LETTERS: Log(), **outputs}
    kafka = made({CHANGELOG: Log([*BEFORE, *HANGS], hangs=5), **logs})
    with capture_logs() as told:
        assert await ended(kafka) == (None if shown else 5)
    scores, letters = (logs[tp].end - 1 for tp in (SCORES, LETTERS))
    assert kafka.told == (
        ["begin", "add changelog 0", "commit", "seen changelog 7"]
        if shown
        else [
            *("begin", "add changelog,scores,letters 0", "abort"),
            f"seen changelog 7,scores {scores},letters {letters}",
        ]
    )
    (line,) = told
    assert (line["topic"], line["partition"], line["offset"], line["aborted"]) == ("changelog", 0, 5, not shown)


async def test_before_the_first_watermark_nothing_is_done(made: Made) -> None:
    kafka = made({CHANGELOG: Log([Rec(0), mark(1, 3)], hangs=0), SCORES: Log([Rec(0, 0)])})
    assert await ended(kafka) is None
    assert "commit" in kafka.told


async def test_what_hangs_without_a_watermark_is_of_no_event(made: Made) -> None:
    """The process was killed while it wrote the windows."""
    kafka = made({CHANGELOG: Log([mark(0, 3), Rec(2)], hangs=2), SCORES: Log([Rec(0, 4)])})
    assert await ended(kafka) == 2
    assert "abort" in kafka.told


async def test_the_way_back_ends_where_all_is_done_or_too_old(made: Made) -> None:
    """An output may hold a year; what is of one transaction was written together."""
    old = [Rec(offset, 12, timestamp=NOW_MS - HOUR_MS) for offset in range(30)]
    others = [Rec(offset, None, timestamp=NOW_MS - HOUR_MS) for offset in range(30)]
    done = [Rec(offset, 9) for offset in range(30)]
    first = [Rec(0, 12, timestamp=NOW_MS - HOUR_MS)]
    kafka = made(
        {
            CHANGELOG: Log([*BEFORE, *HANGS], hangs=5),
            SCORES: Log([*others, Rec(30, 15)]),
            LETTERS: Log([*first, *done[1:]]),
        }
    )
    assert await ended(kafka) == 5
    assert min(offset for tp, offset in kafka.read if tp == SCORES) > 20
    assert min(offset for tp, offset in kafka.read if tp == LETTERS) > 20
    kafka = made({CHANGELOG: Log([*BEFORE, *HANGS], hangs=5), SCORES: Log(old)})
    assert await ended(kafka) is None, "its event counts, whatever its clock says"


@pytest.mark.parametrize(
    ("apart_ms", "shown"), [(hanging._APART_MS, True), (hanging._APART_MS + 1, False)], ids=["as far", "farther"]
)
async def test_how_far_apart_the_records_of_one_transaction_may_be(made: Made, apart_ms: int, *, shown: bool) -> None:
    """Measured from the oldest of what hangs: behind others' record of so long ago it is looked for, or not."""
    hangs = [mark(5, 14), Rec(6, timestamp=NOW_MS + HOUR_MS)]  # and the next one, cut off at its beginning
    kafka = made(
        {
            CHANGELOG: Log([*BEFORE, *hangs], hangs=5),
            SCORES: Log([Rec(0, 12), Rec(1, None, timestamp=NOW_MS - apart_ms)]),
        }
    )
    assert (await ended(kafka) is None) == shown


async def test_what_cannot_be_ended_stops_the_start_with_the_command_that_ends_it(made: Made) -> None:
    kafka = made({CHANGELOG: Log([*BEFORE, *HANGS], hangs=5), SCORES: Log()}, forgotten=True)
    with (
        capture_logs() as told,
        pytest.raises(Fatal, match=r"began at offset 5 of changelog in partition 0 hangs.*--start-offset 5"),
    ):
        await ended(kafka)
    assert told == []


async def test_another_one_behind_it_is_no_reason_to_stop(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log([*BEFORE, *HANGS], hangs=5)
    kafka = made({CHANGELOG: log, SCORES: Log()})

    async def seen(_: object, __: object) -> None:
        log.hangs = 6

    monkeypatch.setattr(marks, "seen", seen)
    assert await ended(kafka) == 5


@pytest.mark.parametrize("refused", [CHANGELOG, SCORES], ids=lambda tp: tp.topic)
async def test_a_topic_that_may_not_be_read_is_told(made: Made, refused: TopicPartition) -> None:
    kafka = made({CHANGELOG: Log([*BEFORE, *HANGS], hangs=5), SCORES: Log([Rec(0, 9)])}, refused=refused)
    with pytest.raises(Fatal, match=f"may not read the topic; grant it READ on {refused.topic}"):
        await ended(kafka)
    assert kafka.open == 0


async def test_on_the_way_back_each_record_comes_once_wherever_a_fetch_ends(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = made({SCORES: Log([Rec(offset) for offset in range(5, 30)], begins=5)})
    monkeypatch.setattr(hanging, "_CHUNKS", (3, 7))
    async with hanging._Reading(kafka.reader("read_committed")) as reading:
        assert [record.offset async for record in reading.back(SCORES, 28)] == [*range(27, 4, -1)]


# -- the output topics -------------------------------------------------------------------------------------------------


async def test_where_nothing_hangs_nothing_is_settled(made: Made) -> None:
    kafka = made({CHANGELOG: Log([mark(0, 5)], hangs=0), SCORES: Log([Rec(0, 5)]), LETTERS: Log()})
    assert await settled(kafka, 5) == []
    assert kafka.read == []


@pytest.mark.parametrize(
    ("records", "end"),
    [
        pytest.param([Rec(2, 4), Rec(3, 5)], "commit", id="all done"),
        pytest.param([Rec(2, 6)], "abort", id="to be done again"),
        pytest.param([Rec(2, 6), Rec(3, 5)], "abort", id="the first is to be done again"),
        pytest.param([Rec(2, 4), Rec(3, 5), Rec(4, None), Rec(5, 6)], "abort", id="the last, in another fetch"),
        pytest.param([Rec(2, None), Rec(3, 5)], "commit", id="among others'"),
        pytest.param([Rec(2, None)], "commit", id="only others'"),
    ],
)
async def test_an_output_counts_as_far_as_its_events_are_done(made: Made, records: list[Rec], end: str) -> None:
    kafka = made({SCORES: Log([Rec(0, 99), *records], hangs=2)})
    assert await settled(kafka, 5) == ["begin", "add scores 0", end, f"seen scores {records[-1].offset + 1}"]


@pytest.mark.parametrize(
    ("of_others", "event"),
    [
        pytest.param(False, "hanging transaction ended", id="ours"),
        pytest.param(True, "readers wait for others", id="of a writer that may be at work"),
    ],
)
async def test_only_what_is_ended_is_told_to_be(made: Made, event: str, *, of_others: bool) -> None:
    kafka = made({SCORES: Log([Rec(0, 5), Rec(1, None)], hangs=1)}, forgotten=of_others)
    with capture_logs() as told:
        await settled(kafka, 5)
    (line,) = told
    assert (line["event"], line["topic"], line["partition"], line["offset"]) == (event, "scores", 0, 1)


async def test_each_output_is_ended_by_itself(made: Made) -> None:
    """One commit may have lost its marks in one topic, and the next have been cut off in another."""
    kafka = made({SCORES: Log([Rec(0, 5)], hangs=0), LETTERS: Log([Rec(0, 6)], hangs=0)})
    assert await settled(kafka, 5) == [
        *("begin", "add scores 0", "commit", "seen scores 1"),
        *("begin", "add letters 0", "abort", "seen letters 1"),
    ]


async def test_what_hangs_in_an_output_that_may_not_be_read_is_told(made: Made) -> None:
    kafka = made({SCORES: Log([Rec(0, 5)], hangs=0)}, refused=SCORES)
    with pytest.raises(Fatal, match="grant it READ on scores"):
        await settled(kafka, 5)


def test_readers_are_of_no_group_and_commit_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Mock()
    monkeypatch.setattr(hanging, "AIOKafkaConsumer", consumer)
    make = hanging.reader(Settings())
    isolations: tuple[hanging.Isolation, ...] = "read_committed", "read_uncommitted"
    for isolation in isolations:
        make(isolation)
        told = consumer.call_args.kwargs
        assert (told.get("group_id"), told["isolation_level"], told["enable_auto_commit"]) == (None, isolation, False)
