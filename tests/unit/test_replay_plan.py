"""What a person asks a replay for, as offsets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from worker.errors import IntentError, SettingError
from worker.replay.plan import (
    EARLIEST,
    LATEST,
    Bound,
    Instant,
    KafkaOffsets,
    Offsets,
    Plan,
    Stretch,
    parse_bound,
    parse_duration,
    resolve,
)

MIDNIGHT = 1_501_545_600_000  # 2017-08-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        pytest.param("earliest", EARLIEST, id="earliest"),
        pytest.param(" latest ", LATEST, id="latest, with blanks"),
        pytest.param("2017-08-01", Instant(MIDNIGHT), id="a date is midnight UTC"),
        pytest.param("2017-08-01T00:00:00Z", Instant(MIDNIGHT), id="Z"),
        pytest.param("2017-08-01T02:00:00.250+02:00", Instant(MIDNIGHT + 250), id="an offset and milliseconds"),
        pytest.param("1969-12-31", Instant(-86_400_000), id="before 1970"),
        pytest.param("0:12", Offsets({0: 12}), id="one offset"),
        pytest.param("0:12,3:7", Offsets({0: 12, 3: 7}), id="offsets"),
    ],
)
def test_bounds(text: str, bound: Bound) -> None:
    assert parse_bound(text, option="--from") == bound


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("yesterday", "accepted are earliest", id="a word"),
        pytest.param("2017-08-01T00:00:00", "needs its offset", id="a time without an offset"),
        pytest.param("0:1,0:2", "named twice", id="a partition twice"),
        pytest.param("-1:5", "accepted are", id="a negative partition"),
        pytest.param("0:" + 5000 * "1", "accepted are", id="an offset of more digits than Python reads"),
        pytest.param("9999-12-31T23:59:59-14:00", "outside of the years 1 to 9999", id="after the last year"),
        pytest.param("0001-01-01T00:00:00+14:00", "outside of the years 1 to 9999", id="before the first"),
    ],
)
def test_bounds_that_are_none(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as error:
        parse_bound(text, option="--to")
    assert "--to" in str(error.value)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0", 0),
        ("90s", 90_000),
        ("15m", 900_000),
        ("30d", 2_592_000_000),
        ("1d12h", 129_600_000),
        ("2w", 1_209_600_000),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text, option="--warmup") == milliseconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "30 d", "٣d", 5000 * "9" + "d"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(SettingError, match="--warmup"):
        parse_duration(text, option="--warmup")


@dataclass
class Log:
    """Two partitions with one record an hour from hour 0 on; the first 10 offsets of partition 1 are deleted."""

    hour_ms: int = 3_600_000
    ends: tuple[int, int] = (100, 50)

    def edges(self, _topic: str, /) -> Mapping[int, tuple[int, int]]:
        return {0: (0, self.ends[0]), 1: (10, self.ends[1])}

    def at(self, topic: str, /, time_ms: Mapping[int, int]) -> Mapping[int, int | None]:
        first = {partition: max(-(-time // self.hour_ms), 0) for partition, time in time_ms.items()}
        return {
            partition: max(offset, self.edges(topic)[partition][0]) if offset < self.ends[partition] else None
            for partition, offset in first.items()
        }

    def time_of(self, _topic: str, /, offset: Mapping[int, int]) -> Mapping[int, int | None]:
        return {partition: first * self.hour_ms for partition, first in offset.items()}


def planned(begin: Bound, end: Bound, *, warmup_hours: int = 0) -> list[tuple[int, int, int, int]]:
    log = Log()
    plan = resolve("t", begin, end, warmup_ms=warmup_hours * log.hour_ms, offsets=log)
    return [(s.partition, s.warm_from, s.start, s.end) for s in plan.stretches]


def hour(number: float) -> Instant:
    return Instant(int(number * 3_600_000))


@pytest.mark.parametrize(
    ("begin", "end", "warmup_hours", "stretches"),
    [
        pytest.param(EARLIEST, LATEST, 0, [(0, 0, 0, 100), (1, 10, 10, 50)], id="everything"),
        pytest.param(EARLIEST, LATEST, 48, [(0, 0, 0, 100), (1, 10, 10, 50)], id="nothing is before the beginning"),
        pytest.param(hour(20), hour(30), 0, [(0, 20, 20, 30), (1, 20, 20, 30)], id="from inclusive, to exclusive"),
        pytest.param(hour(19.5), hour(30), 0, [(0, 20, 20, 30), (1, 20, 20, 30)], id="between two records"),
        pytest.param(hour(20), hour(30), 12, [(0, 8, 20, 30), (1, 10, 20, 30)], id="warm-up, clamped to what is left"),
        pytest.param(hour(45), hour(70), 0, [(0, 45, 45, 70), (1, 45, 45, 50)], id="one partition ends earlier"),
        pytest.param(hour(60), LATEST, 5, [(0, 55, 60, 100)], id="a partition with nothing to score is left out"),
        pytest.param(Offsets({1: 20}), LATEST, 4, [(1, 16, 20, 50)], id="named partitions only"),
        pytest.param(Offsets({0: 5}), Offsets({0: 1000}), 0, [(0, 5, 5, 100)], id="offsets are clamped"),
        pytest.param(hour(500), LATEST, 1, [], id="after the end"),
    ],
)
def test_stretches(begin: Bound, end: Bound, warmup_hours: int, stretches: list[tuple[int, int, int, int]]) -> None:
    assert planned(begin, end, warmup_hours=warmup_hours) == stretches


@pytest.mark.parametrize(
    ("begin", "warmup_hours", "cut"),
    [
        pytest.param(EARLIEST, 0, [], id="no warm-up is asked for"),
        pytest.param(EARLIEST, 1, [1], id="what was before the beginning is deleted, or there was none"),
        pytest.param(hour(20), 12, [1], id="some of the warm-up is deleted"),
        pytest.param(hour(20), 9, [], id="all of it is left"),
    ],
)
def test_a_warm_up_that_the_topic_no_longer_holds_is_told(begin: Bound, warmup_hours: int, cut: list[int]) -> None:
    plan = resolve("t", begin, LATEST, warmup_ms=warmup_hours * 3_600_000, offsets=Log())
    assert [stretch.partition for stretch in plan.stretches if stretch.cut] == cut


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        pytest.param(LATEST, EARLIEST, "--from has to lie before --to", id="the wrong way round"),
        pytest.param(
            hour(900), hour(800.5), r"--from is 1970-02-07T12:00:00Z and --to 1970-02-03T08:30:00Z", id="behind the end"
        ),
        pytest.param(
            hour(20), hour(20), "--from is 1970-01-01T20:00:00Z and --to 1970-01-01T20:00:00Z", id="no time at all"
        ),
        pytest.param(Offsets({7: 1}), LATEST, "no partition 7; it has 0 to 1", id="unknown partition"),
    ],
)
def test_ranges_that_are_none(begin: Bound, end: Bound, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        planned(begin, end)


@dataclass
class Told(Log):
    """Its index answers this, whatever the time: producers' clocks differ, and what lies behind the end is not read."""

    answer: Mapping[int, int | None] = field(default_factory=dict)

    def at(self, _topic: str, /, time_ms: Mapping[int, int]) -> Mapping[int, int | None]:
        return {partition: self.answer[partition] for partition in time_ms}


@pytest.mark.parametrize(
    ("begin", "answer", "stretches"),
    [
        pytest.param(Offsets({0: 20, 1: 20}), {0: 30, 1: None}, [(0, 20, 20), (1, 10, 20)], id="of the warm-up"),
        pytest.param(hour(3), {0: 1000, 1: 50}, [], id="behind what can be read"),
    ],
)
def test_an_index_that_is_out_of_order_leads_neither_past_the_start_nor_out_of_the_topic(
    begin: Bound, answer: Mapping[int, int | None], stretches: list[tuple[int, int, int]]
) -> None:
    plan = resolve("t", begin, LATEST, warmup_ms=3_600_000, offsets=Told(answer=answer))
    assert [(s.partition, s.warm_from, s.start) for s in plan.stretches] == stretches


def test_a_plan_knows_its_length() -> None:
    plan = Plan(topic="t", stretches=(Stretch(partition=0, warm_from=5, start=10, end=30),))
    assert plan.offsets == 25


@dataclass
class Broker:
    """Has one answer to a poll, and errors for its first answer about times, by partition."""

    answer: Message | None
    errors: dict[int, KafkaError] = field(default_factory=dict)

    def assign(self, partitions: list[TopicPartition]) -> None: ...

    def unassign(self) -> None: ...

    def list_topics(self, topic: str, **_: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))})

    def poll(self, _timeout_s: float) -> Message | None:
        return self.answer

    def offsets_for_times(self, asked: list[TopicPartition], **_: float) -> list[Any]:
        """Partition 1 has no leader at first; librdkafka leaves the time that was asked for in place of its offset."""
        errors, self.errors = self.errors, {}
        return [
            SimpleNamespace(partition=tp.partition, offset=tp.offset if error else 7, error=error)
            for tp in asked
            for error in [errors.get(tp.partition)]
        ]


def test_a_partition_that_cannot_answer_is_asked_again() -> None:
    broker = Broker(None, errors={1: KafkaError(KafkaError.LEADER_NOT_AVAILABLE)})
    offsets = KafkaOffsets(cast("Consumer", broker))
    assert offsets.at("shop.events", {0: MIDNIGHT, 1: MIDNIGHT}) == {0: 7, 1: 7}


def test_a_partition_that_may_not_answer_is_told() -> None:
    broker = Broker(None, errors={1: KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)})
    with pytest.raises(IntentError, match=r"the topic shop\.events cannot be looked up: "):
        KafkaOffsets(cast("Consumer", broker)).at("shop.events", {0: MIDNIGHT, 1: MIDNIGHT})


def time_of(answer: Message | None) -> Mapping[int, int | None]:
    return KafkaOffsets(cast("Consumer", Broker(answer))).time_of("shop.events", {3: 40})


def test_the_time_at_an_offset() -> None:
    assert time_of(Message("shop.events", 3, 41, b"", b"", [], None, (1, MIDNIGHT))) == {3: MIDNIGHT}


def test_behind_the_offset_are_only_markers() -> None:
    assert time_of(Message("shop.events", 3, 42, error=KafkaError(KafkaError._PARTITION_EOF))) == {3: None}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(None, "sent nothing for 15 s: the topic is gone", id="silence"),
        pytest.param(Message(error=KafkaError(KafkaError._AUTO_OFFSET_RESET)), "cannot be read: ", id="deleted since"),
    ],
)
def test_a_time_that_cannot_be_read_is_not_no_time(answer: Message | None, said: str) -> None:
    with pytest.raises(IntentError, match=f"partition 3 of shop.events at offset 40 {said}"):
        time_of(answer)
