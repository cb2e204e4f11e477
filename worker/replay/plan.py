"""Which offsets a replay reads: turns what a person asks for into one stretch of offsets per partition.

Knows the topic's offsets and nothing of what is done with the records. Times are those of the *records* (when they
arrived in Kafka), since only those are indexed; event times lie inside the records and follow the window rule later.
"""

import datetime as dt
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.errors import IntentError, SettingError

T = TypeVar("T")

ASK_TIMEOUT_S: Final = 15.0
_AGAIN_S: Final = 0.1
_PASSING: Final = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - librdkafka's own codes begin with an underscore
}
_NOBODY: Final = {
    KafkaError._TRANSPORT,  # noqa: SLF001 - as above
    KafkaError._TIMED_OUT,  # noqa: SLF001 - as above
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - as above
}
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
OFFSET: Final = "[0-9]{1,10}:[0-9]{1,19}"
"""A regular expression for partition:offset. Kafka's numbers have no more digits."""
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Edge:
    """One end of the range."""

    name: str


EARLIEST: Final = Edge("earliest")
LATEST: Final = Edge("latest")


@dataclass(frozen=True, slots=True)
class Instant:
    """A time, as UTC milliseconds since 1970."""

    time_ms: int

    def __str__(self) -> str:
        return (_EPOCH + dt.timedelta(milliseconds=self.time_ms)).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Offsets:
    """An offset for some partitions; the others are not read."""

    of: Mapping[int, int]


Bound = Edge | Instant | Offsets


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What is read of one partition: `[warm_from, start)` folds only, `[start, end)` is scored and published."""

    partition: int
    warm_from: int
    start: int
    end: int
    cut: bool = False
    """The warm-up reaches the first record that is left, and others were before it: windows may lack some of these."""

    @property
    def offsets(self) -> int:
        """Offsets to read, warm-up included. Transaction markers and compaction leave fewer records than that."""
        return max(self.end - self.warm_from, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A topic and its stretches, by partition; empty stretches are left out."""

    topic: str
    stretches: tuple[Stretch, ...]

    @property
    def offsets(self) -> int:
        """Offsets to read over all partitions."""
        return sum(stretch.offsets for stretch in self.stretches)


class TopicOffsets(Protocol):
    """What a topic can be asked for. `KafkaOffsets` asks a broker; tests bring their own."""

    def edges(self, topic: str, /) -> Mapping[int, tuple[int, int]]:
        """First offset and end (one past the last readable) of each partition."""

    def at(self, topic: str, /, time_ms: Mapping[int, int]) -> Mapping[int, int | None]:
        """Per partition, the first offset whose record is not older than its time; None where there is none."""

    def time_of(self, topic: str, /, offset: Mapping[int, int]) -> Mapping[int, int | None]:
        """Per partition, the timestamp (UTC ms) of the first record from its offset on; None where there is none."""


def parse_bound(text: str, *, option: str) -> Bound:
    """`earliest`, `latest`, a date (midnight UTC), an RFC 3339 time, or `partition:offset[,partition:offset...]`.

    Raises `SettingError` that names `option` and its value.
    """
    text = text.strip()
    for edge in (EARLIEST, LATEST):
        if text == edge.name:
            return edge
    if re.fullmatch(f"{OFFSET}(,{OFFSET})*", text):
        pairs = [pair.split(":") for pair in text.split(",")]
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        if len(offsets) != len(pairs):
            raise SettingError(f"{option} is {text!r}: a partition is named twice; name each once")
        return Offsets(offsets)
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise SettingError(
            f"{option} is {text!r}: accepted are earliest, latest, a date (2017-08-01, midnight UTC), "
            "a time with its offset (2017-08-01T12:00:00Z) and partition:offset[,partition:offset...]"
        ) from None
    if time.tzinfo is None:
        if len(text) > len("2017-08-01"):
            raise SettingError(f"{option} is {text!r}: a time needs its offset to UTC; write for example {text}Z")
        time = time.replace(tzinfo=dt.UTC)
    try:
        time = time.astimezone(dt.UTC)
    except OverflowError:
        raise SettingError(
            f"{option} is {text!r}: in UTC that is outside of the years 1 to 9999; earliest and latest are the ends"
        ) from None
    return Instant((time - _EPOCH) // dt.timedelta(milliseconds=1))


def parse_duration(text: str, *, option: str) -> int:
    """A length of time as whole milliseconds: `0`, `90s`, `15m`, `12h`, `30d`, `2w`, or a sum such as `1d12h`."""
    if text == "0":
        return 0
    if not re.fullmatch("([0-9]{1,12}[smhdw])+", text):
        raise SettingError(
            f"{option} is {text!r}: accepted are 0 and numbers with s, m, h, d or w, such as 30d or 1d12h"
        )
    return 1000 * sum(int(number) * _UNITS_S[unit] for number, unit in re.findall("([0-9]+)([smhdw])", text))


def resolve(topic: str, begin: Bound, end: Bound, *, warmup_ms: int, offsets: TopicOffsets) -> Plan:
    """The plan for `[begin, end)`, each partition warmed up by the `warmup_ms` of records before its start.

    Both bounds are clamped to what the topic still holds. `latest` is the end at this moment, so a replay of a live
    topic ends. Raises `SettingError` for an unknown partition or a range that is the wrong way round.
    """
    if isinstance(begin, Instant) and isinstance(end, Instant) and begin.time_ms >= end.time_ms:
        raise SettingError(f"--from is {begin} and --to {end}: --from has to lie before --to")
    edges = offsets.edges(topic)
    starts = _resolve(topic, begin, edges, offsets)
    ends = _resolve(topic, end, edges, offsets)
    partitions = sorted(starts.keys() & ends.keys())
    backwards = [partition for partition in partitions if starts[partition] > ends[partition]]
    if backwards:
        worst = backwards[0]
        raise SettingError(
            f"partition {worst} of {topic} would be read from offset {starts[worst]} to {ends[worst]}: "
            "--from has to lie before --to"
        )
    partitions = [partition for partition in partitions if starts[partition] < ends[partition]]
    starts = {partition: starts[partition] for partition in partitions}
    warm = _warm_from(topic, starts, warmup_ms, edges, offsets)
    return Plan(
        topic=topic,
        stretches=tuple(
            Stretch(
                partition=partition,
                warm_from=warm[partition],
                start=starts[partition],
                end=ends[partition],
                cut=warmup_ms > 0 and 0 < edges[partition][0] == warm[partition],
            )
            for partition in partitions
        ),
    )


def _resolve(
    topic: str, bound: Bound, edges: Mapping[int, tuple[int, int]], offsets: TopicOffsets
) -> Mapping[int, int]:
    match bound:
        case Edge():
            return {partition: low if bound is EARLIEST else high for partition, (low, high) in edges.items()}
        case Instant(time_ms):
            found = offsets.at(topic, dict.fromkeys(edges, time_ms))
            return {
                partition: high if (offset := found[partition]) is None else min(offset, high)
                for partition, (_, high) in edges.items()
            }
        case Offsets(of):
            for partition in of.keys() - edges.keys():
                raise SettingError(f"{topic} has no partition {partition}; it has 0 to {len(edges) - 1}")
            return {
                partition: min(max(offset, edges[partition][0]), edges[partition][1])
                for partition, offset in of.items()
            }


def _warm_from(
    topic: str, starts: Mapping[int, int], warmup_ms: int, edges: Mapping[int, tuple[int, int]], offsets: TopicOffsets
) -> Mapping[int, int]:
    """Where reading starts. The start's own timestamp counts, not `begin`: an offset has no time of its own."""
    if warmup_ms == 0:
        return starts
    times = offsets.time_of(topic, starts)
    wanted = {partition: max(time - warmup_ms, 0) for partition, time in times.items() if time is not None}
    found = offsets.at(topic, wanted)
    return {
        partition: max(edges[partition][0], min(start, found.get(partition) or 0)) if partition in wanted else start
        for partition, start in starts.items()
    }


def silent(consumer: Consumer, topic: str, what: str) -> IntentError:
    """The sentence for a consumer to which nothing was sent, as `what` says. Nobody tells it that a topic is gone."""
    with suppress(KafkaException):
        error = consumer.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic].error
        if error is not None and error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return IntentError(f"{what}: the topic is gone, it was deleted meanwhile")
    return IntentError(f"{what}; is its broker up?")


class KafkaOffsets:
    """`TopicOffsets` answered by a broker. Blocks, at most `ASK_TIMEOUT_S` a question; commits nothing.

    `consumer` must read committed, so that the end is the last stable offset, and tell the end of a partition. Its
    assignment is replaced. `named`: by what the topic is. Raises `ConnectionError` where no broker answers.
    """

    def __init__(self, consumer: Consumer, *, named: str = "setting `topics.events`") -> None:
        self._consumer = consumer
        self._named = named

    def edges(self, topic: str, /) -> Mapping[int, tuple[int, int]]:
        """As the protocol says. Raises `SettingError` for a topic that is not there."""
        described = self._ask(topic, lambda: self._consumer.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic])
        if described.error is not None:
            if described.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise SettingError(
                    f"the topic {topic} ({self._named}) is not there; name one that is, or see what "
                    "`intent topics check` says"
                )
            raise SettingError(f"the topic {topic} ({self._named}) cannot be read: {described.error.str()}")
        edges = {}
        for partition in sorted(described.partitions):
            edge = self._ask(topic, partial(self._edge, TopicPartition(topic, partition)))
            if edge is None:
                raise IntentError(f"partition {partition} of {topic} did not tell its offsets in {ASK_TIMEOUT_S:.0f} s")
            edges[partition] = edge
        return edges

    def _edge(self, partition: TopicPartition) -> tuple[int, int] | None:
        return self._consumer.get_watermark_offsets(partition, timeout=ASK_TIMEOUT_S)

    def at(self, topic: str, /, time_ms: Mapping[int, int]) -> Mapping[int, int | None]:
        """As the protocol says."""
        if not time_ms:
            return {}
        asked = [TopicPartition(topic, partition, max(time, 0)) for partition, time in time_ms.items()]

        def answered() -> list[TopicPartition]:
            answers = self._consumer.offsets_for_times(asked, timeout=ASK_TIMEOUT_S)
            for answer in answers:
                if answer.error is not None:  # its offset is then the time that was asked for
                    raise KafkaException(answer.error)
            return answers

        answers = self._ask(topic, answered)
        return {answer.partition: answer.offset if answer.offset >= 0 else None for answer in answers}

    def _ask(self, topic: str, question: Callable[[], T]) -> T:
        """Ask again while leadership moves, which a new or failing-over topic does for a moment."""
        deadline_s = time.monotonic() + ASK_TIMEOUT_S
        while True:
            try:
                return question()
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() in _NOBODY:
                    raise ConnectionError(reason.str()) from None
                if reason.code() not in _PASSING or time.monotonic() > deadline_s:
                    raise IntentError(f"the topic {topic} cannot be looked up: {reason.str()}") from None
                time.sleep(_AGAIN_S)

    def time_of(self, topic: str, /, offset: Mapping[int, int]) -> Mapping[int, int | None]:
        """As the protocol says: reads one record of each partition. Raises `IntentError` where none can be read."""
        return {partition: self._time_of(topic, partition, first) for partition, first in offset.items()}

    def _time_of(self, topic: str, partition: int, offset: int) -> int | None:
        self._consumer.assign([TopicPartition(topic, partition, offset if offset >= 0 else OFFSET_BEGINNING)])
        try:
            message: Message | None = self._consumer.poll(ASK_TIMEOUT_S)
        finally:
            self._consumer.unassign()
        where = f"partition {partition} of {topic} at offset {offset}"
        if message is None:
            raise silent(self._consumer, topic, f"{where} sent nothing for {ASK_TIMEOUT_S:.0f} s")
        if (error := message.error()) is None:
            return message.timestamp()[1]
        # Behind the offset may be only markers and aborted records: then the end of the partition comes first.
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - as above
            return None
        raise IntentError(f"{where} cannot be read: {error.str()}")
