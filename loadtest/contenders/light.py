"""The job *light* in this project's worker: two pure functions of it are replaced, `fold.fold` and `output.render`.

The sweep of expired users is left out, since it reads windows of the worker's own layout. All that moves, stores and
commits records stays what it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

from loadtest.contenders.jobs import light_fold, light_score, light_time
from worker import pipeline, watermark
from worker.fold import Batch, Record, Updated
from worker.scores import Rating
from worker.stream import partition
from worker.stream.output import OutRecord, Rendered
from worker.watermark import Watermark


def fold(
    records: Sequence[Record], *, windows: Callable[[bytes], bytes | None], start: Watermark, **_rules: Any
) -> Batch:
    """`worker.fold.fold`, of *light*."""
    batch = Batch(timestamps=[record.timestamp for record in records])
    changed = batch.changed
    for record in records:
        key, value = record.key, record.value
        assert key is not None
        assert value is not None
        time_ms: Any = light_time(value)  # stands where the worker keeps the event
        before = changed[key] if key in changed else windows(key)
        after = changed[key] = light_fold(before, record.offset, value)
        batch.updated.append(Updated(record, time_ms, after))
    batch.fates["scored"] = len(records)
    batch.watermark = start._replace(offset=records[-1].offset)
    return batch


def render(
    batch: Batch,
    ratings: Sequence[Rating],
    *,
    topic: str,
    partition: int,
    application: str,  # noqa: ARG001 - the worker's parameters
    scored_at: str,  # noqa: ARG001
) -> Rendered:
    """`worker.stream.output.render`, of *light*."""
    name = topic.encode()
    scored = []
    for update, _ in zip(batch.updated, ratings, strict=True):
        key, offset = update.record.key, update.record.offset
        assert key is not None
        time_ms: Any = update.event
        value = light_score(name, key=key, partition=partition, offset=offset, window=update.window, time_ms=time_ms)
        scored.append(OutRecord(key, value, []))
    changelog = [OutRecord(key, window, []) for key, window in batch.changed.items()]
    changelog.append(OutRecord(watermark.KEY, batch.watermark.encode(), []))
    return Rendered(scored, [], [], changelog)


def install() -> None:
    """From now on this process's worker has the job *light*."""
    core: Any = pipeline
    edge: Any = partition
    core.fold, core.sweep, edge.render = fold, lambda *_, **__: None, render
