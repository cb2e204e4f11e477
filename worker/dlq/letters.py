"""Dead letters read back: what failed, where, why, and the record as it came. Sends nothing.

The parts that a person reads (reason, message, coordinates) carry nothing of the event; key, headers and value do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Self

from worker import deadletter
from worker.events import MAX_TIME_MS
from worker.replay.lookup import look_up
from worker.replay.plan import Bound, Plan
from worker.replay.tape import Played, Tape, reader
from worker.scores import Headers, rfc3339
from worker.settings import Settings
from worker.terminal import printable

_PARTITIONS: Final = (1 << 31) - 1
"""The greatest number that Kafka's protocol can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. `topic` to `offset` are those of the record that failed; empty or -1 without such a header."""

    id: str
    """Where the letter itself lies: `partition:offset` of the dead-letter topic."""
    time_ms: int
    """The failed record's own timestamp; the letter's where none is told."""
    topic: str
    partition: int
    offset: int
    stage: str
    reason: str
    message: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    """As the record had them; those of the error are left out."""

    @property
    def source(self) -> str:
        """The failed record's coordinates in one word."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def time(self) -> str:
        """`time_ms` in RFC 3339; as it is where that cannot write it, since a producer may have sent any number."""
        return rfc3339(self.time_ms) if 0 <= self.time_ms <= MAX_TIME_MS else f"{self.time_ms} ms"

    def bare(self) -> Self:
        """Without the record itself, whose key, value and headers may be 15 MiB."""
        return replace(self, key=None, value=None, headers=[])


def plan(settings: Settings, begin: Bound, end: Bound) -> Plan:
    """Which part of the dead-letter topic `[begin, end)` is. Raises `SettingError` where the topic cannot be read."""
    return look_up(
        settings.kafka, settings.topics.dead_letters, begin, end, warmup_ms=0, named="setting `topics.dead_letters`"
    )


def behind(chosen: Plan, last: str) -> str:
    """What of a plan is behind the letter with this id, as `--from` takes it; empty where that is nothing."""
    partition, offset = map(int, last.split(":"))
    left = [
        f"{stretch.partition}:{offset + 1 if stretch.partition == partition else stretch.start}"
        for stretch in chosen.stretches
        if stretch.partition > partition or (stretch.partition == partition and offset + 1 < stretch.end)
    ]
    return ",".join(left)


def read(settings: Settings, chosen: Plan) -> Iterator[Letter]:
    """The letters of a plan, partition by partition, oldest first. Blocks; raises `IntentError` as a tape does."""
    consumer = reader(settings.kafka)
    try:
        for stretch in chosen.stretches:
            for played in Tape(consumer, chosen.topic, stretch):
                yield parse(played, partition=stretch.partition)
    finally:
        consumer.close()


def parse(record: Played, *, partition: int) -> Letter:
    """A record of the dead-letter topic. Takes any: what another program put there has an empty reason."""
    errors: dict[str, str] = {}
    own: list[tuple[str, bytes | None]] = []
    for name, content in record.headers:
        if name.startswith(deadletter.PREFIX):
            errors[name.removeprefix(deadletter.PREFIX)] = (content or b"").decode("utf-8", "replace")
        else:
            own.append((name, content))
    return Letter(
        id=f"{partition}:{record.offset}",
        time_ms=record.timestamp if (told := deadletter.number(errors.get("timestamp", ""))) < 0 else told,
        topic=errors.get("topic", ""),
        partition=deadletter.number(errors.get("partition", ""), most=_PARTITIONS),
        offset=deadletter.number(errors.get("offset", "")),
        stage=errors.get("stage", ""),
        reason=errors.get("exception.class.name", ""),
        message=errors.get("exception.message", ""),
        key=record.key,
        value=record.value,
        headers=own,
    )


def escaped(raw: bytes | None) -> str:
    """Any bytes as printable text: safe for a terminal, and told apart from each other.

    UTF-8 stays readable; control characters, bytes that are no UTF-8 and the backslash become escapes.
    """
    if raw is None:
        return "(none)"
    text = raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return printable(text)
