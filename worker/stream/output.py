"""What a batch writes to the output topics, as records. Pure: knows the wire types, not the producer."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from worker import deadletter, scores, watermark
from worker.fold import Batch, Updated
from worker.scores import Headers, Rating


class OutRecord(Struct, frozen=True, gc=False):
    """One record to be sent."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Rendered(NamedTuple):
    """The records of one transaction, by topic."""

    scores: list[OutRecord]
    latest: list[OutRecord]
    dead_letters: list[OutRecord]
    changelog: list[OutRecord]


def render(
    batch: Batch,
    ratings: Sequence[Rating],
    *,
    topic: str,
    partition: int,
    application: str,
    scored_at: str,
) -> Rendered:
    """All records of a batch. `ratings` run in parallel to `batch.updated`."""
    scored = [
        score(update, rating, topic=topic, partition=partition, source=application, scored_at=scored_at)
        for update, rating in zip(batch.updated, ratings, strict=True)
    ]
    latest = [OutRecord(key, None, []) if place is None else scored[place] for key, place in batch.latest.items()]
    return Rendered(scored, latest, list(_dead(batch, topic, partition)), list(_changelog(batch)))


def score(
    update: Updated,
    rating: Rating,
    *,
    topic: str,
    partition: int,
    source: str,
    scored_at: str,
    type_: str = scores.EVENT_TYPE,
) -> OutRecord:
    """One score, of an event of `topic`. `source` and `type_` are CloudEvents'."""
    record, offset = update.record, update.record.offset
    value = scores.encode(
        update.event, update.window, rating, topic=topic, partition=partition, offset=offset, scored_at=scored_at
    )
    score_id = scores.score_id(topic, partition, offset)
    return OutRecord(record.key, value, scores.headers(score_id, source=source, scored_at=scored_at, type_=type_))


def source_offset(headers: Headers, *, topic: str, partition: int) -> int | None:
    """Of which record of that source partition a score or a dead letter is; `None` where it is of another, or neither.

    A dead letter keeps its record's own headers, and may be one that was redriven: the last of a name is ours.
    """
    told = {name: (text or b"").decode("utf-8", "replace") for name, text in headers}
    text = told.get(f"{deadletter.PREFIX}offset")
    if text is not None:
        offset = deadletter.number(text)
        source = told.get(f"{deadletter.PREFIX}topic"), told.get(f"{deadletter.PREFIX}partition")
        ours = source == (topic, str(partition))
    else:
        score_id = told.get("ce_id", "")
        offset = deadletter.number(score_id.rpartition("-")[2])
        ours = score_id == scores.score_id(topic, partition, offset)
    return offset if ours and offset >= 0 else None


def _dead(batch: Batch, topic: str, partition: int) -> Iterator[OutRecord]:
    for record, stage, reason, message in batch.rejected:
        key, value, own = deadletter.bounded(record.key, record.value, record.headers)
        headers = deadletter.headers(
            own,
            topic=topic,
            partition=partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            stage=stage,
            reason=reason,
            message=message,
        )
        yield OutRecord(key, value, headers)


def _changelog(batch: Batch) -> Iterator[OutRecord]:
    for key, window in batch.changed.items():
        yield OutRecord(key, window, [])
    yield OutRecord(watermark.KEY, batch.watermark.encode(), [])
