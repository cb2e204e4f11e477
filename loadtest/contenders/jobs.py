"""The two jobs, one event at a time: what every contender computes. Knows no Kafka, and no library of streams.

*light* hides little of the stream: parse the JSON, keep the last 20 (offset, hash) of the user, write a score of about
100 bytes. *full* is the product's own: validated events, windows of up to 64 events by its window rule, whole score
records with headers, the newest score a user once more, dead letters.

The scorer costs nothing in both.
"""

import struct
import time
from typing import Final, NamedTuple, Protocol
from zlib import crc32

import orjson

from loadtest.contenders.task import Job
from worker import deadletter, events, facts, scores, window
from worker.errors import Invalid
from worker.scores import Headers, Intent, Model, Rating, Risk

MODEL: Final = Model("constant", "0")

RATING: Final = Rating(Intent(0.5, 0.5, 0.5), Risk(0.0, ()), (), MODEL)
"""What the constant scorer says of every window."""

_LIGHT_EVENTS: Final = 20
_LIGHT_EVENT: Final = struct.Struct("<qq")
_LIGHT_BYTES: Final = _LIGHT_EVENTS * _LIGHT_EVENT.size
_LIGHT_SCORE: Final = b'{"score_id":"%b-%d-%d","user_id":"%b","window":%d,"event_time":%d,"score":%g}'


class Step(NamedTuple):
    """One event's effects. A `window` of None is no change; `score` or `dead` is None."""

    window: bytes | None
    score: bytes | None
    headers: Headers
    dead: Headers | None


class Steps(Protocol):
    """A job's way with one record of one partition; partitions come in offset order each."""

    def __call__(
        self, before: bytes | None, value: bytes, *, key: bytes, partition: int, offset: int, timestamp_ms: int
    ) -> Step:
        """The user's window before it, and the record."""


def steps(job: Job, *, topic: str, application: str) -> Steps:
    """The job for the records of one topic."""
    return Light(topic) if job == "light" else Full(topic, application)


def light_time(value: bytes) -> int:
    """The event's time, as *light* reads an event."""
    time_ms: int = orjson.loads(value)["event_time"]
    return time_ms


def light_fold(before: bytes | None, offset: int, value: bytes) -> bytes:
    """The window of *light* after an event: the last 20 of 16 bytes."""
    return ((before or b"") + _LIGHT_EVENT.pack(offset, crc32(value)))[-_LIGHT_BYTES:]


def light_score(topic: bytes, *, key: bytes, partition: int, offset: int, window: bytes, time_ms: int) -> bytes:
    """The score of *light*, about 100 bytes."""
    return _LIGHT_SCORE % (topic, partition, offset, key, crc32(window), time_ms, RATING.intent.purchase_30m)


class Light:
    """*light*, for those who take events one by one."""

    def __init__(self, topic: str) -> None:
        self._topic = topic.encode()

    def __call__(
        self,
        before: bytes | None,
        value: bytes,
        *,
        key: bytes,
        partition: int,
        offset: int,
        timestamp_ms: int,  # noqa: ARG002 - the same call for both jobs
    ) -> Step:
        """See `Steps`."""
        time_ms = light_time(value)
        after = light_fold(before, offset, value)
        score = light_score(self._topic, key=key, partition=partition, offset=offset, window=after, time_ms=time_ms)
        return Step(after, score, [], None)


class Full:
    """*full*, for those who take events one by one. The order is that of `worker.fold.fold`."""

    def __init__(self, topic: str, application: str) -> None:
        self._topic = topic
        self._application = application
        self._rules = window.Rules()
        self._newest_ms: dict[int, int] = {}

    def __call__(
        self, before: bytes | None, value: bytes, *, key: bytes, partition: int, offset: int, timestamp_ms: int
    ) -> Step:
        """See `Steps`."""
        try:
            event = events.decode(value, key=key, timestamp_ms=timestamp_ms)
        except Invalid as error:
            return self._dead(partition, offset, timestamp_ms, stage="decode", reason=error.reason, message=str(error))
        newest_ms = max(self._newest_ms.get(partition, 0), event.time_ms)
        self._newest_ms[partition] = newest_ms
        folded = window.fold(before, facts.of(event), rules=self._rules, clock_ms=newest_ms)
        outcome, after = folded.outcome, folded.window
        if outcome is window.Outcome.DUPLICATE:
            return Step(None, None, [], None)
        if outcome is window.Outcome.LATE:
            return self._dead(partition, offset, timestamp_ms, stage="fold", reason="late", message="late")
        scored_at = scores.rfc3339(time.time_ns() // 1_000_000)
        score = scores.encode(
            event,
            after,
            RATING,
            topic=self._topic,
            partition=partition,
            offset=offset,
            scored_at=scored_at,
        )
        score_id = scores.score_id(self._topic, partition, offset)
        return Step(after, score, scores.headers(score_id, source=self._application, scored_at=scored_at), None)

    def _dead(self, partition: int, offset: int, timestamp_ms: int, *, stage: str, reason: str, message: str) -> Step:
        headers = deadletter.headers(
            [],
            topic=self._topic,
            partition=partition,
            offset=offset,
            timestamp_ms=timestamp_ms,
            stage=stage,
            reason=reason,
            message=message,
        )
        return Step(None, None, [], headers)
