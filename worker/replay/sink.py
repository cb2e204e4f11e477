"""Where a replay's scores go: one Parquet file, whole or absent. Knows scores, not where they came from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from worker import scores, window
from worker.errors import IntentError, SettingError
from worker.fold import Batch, Updated
from worker.scores import HORIZONS, Rating
from worker.whole import beside, put

ROW_GROUP_ROWS: Final = 65_536
"""Enough for good compression, and about 30 MB in memory before a group is written."""

_TIME: Final = pa.timestamp("ms", tz="UTC")
_NAME: Final = pa.dictionary(pa.int32(), pa.string())

SCHEMA: Final = pa.schema(
    [
        ("score_id", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("record_time", _TIME),
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("event_type", _NAME),
        ("event_time", _TIME),
        *((horizon, pa.float64()) for horizon in HORIZONS),
        *((horizon.replace("purchase", "percentile"), pa.float64()) for horizon in HORIZONS),
        ("risk", pa.float64()),
        ("risk_reasons", pa.list_(pa.string())),
        ("reasons", pa.list_(pa.struct([("code", pa.string()), ("weight", pa.float64())]))),
        ("window_events", pa.int32()),
        ("window_first_event_time", _TIME),
        ("window_digest", pa.string()),
        ("model_name", _NAME),
        ("model_version", _NAME),
    ]
)
"""One row per score: what the scores topic tells, flat, without `scored_at`: a replay has no such moment. Percentiles
are null where the model has no reference.
"""


class ParquetSink:
    """Writes scores row group by row group, under another name until all are there.

    A context manager: leaving it well renames the file to `path`, replacing one that was there; leaving it by an error
    deletes it. `origin` is kept as JSON in the file's metadata under `intent.replay`.

    Where the file cannot be written, making it raises `SettingError`; a disk that fails later is `IntentError`.
    """

    def __init__(self, path: Path, *, topic: str, origin: Mapping[str, object]) -> None:
        self.rows = 0
        self._path = path
        self._held = ExitStack()
        self._topic = topic
        self._waiting: list[tuple[object, ...]] = []
        schema = SCHEMA.with_metadata({"intent.replay": json.dumps(origin)})
        with _writing(path, SettingError):
            try:
                self._partial = self._held.enter_context(beside(path))
                self._writer = pq.ParquetWriter(self._partial, schema, compression="zstd")
            except BaseException:  # a signal's as well: what was not entered is not left either
                self._held.close()
                raise

    def write(self, partition: int, batch: Batch, ratings: Sequence[Rating]) -> None:
        """Add a batch's scores; `ratings` run in parallel to `batch.updated`."""
        self._waiting.extend(
            self._row(partition, update, rating) for update, rating in zip(batch.updated, ratings, strict=True)
        )
        if len(self._waiting) >= ROW_GROUP_ROWS:
            self._flush()

    def _row(self, partition: int, update: Updated, rating: Rating) -> tuple[object, ...]:
        """In the order of `SCHEMA`. The way over the wire format makes these the very values that readers get live."""
        record, event, after = update.record, update.event, update.window
        score = scores.decode(
            scores.encode(
                event,
                after,
                rating,
                topic=self._topic,
                partition=partition,
                offset=record.offset,
                scored_at="",
            )
        )
        return (
            score.score_id,
            partition,
            record.offset,
            record.timestamp,
            score.event_id,
            score.user_id,
            score.session_id,
            event.type,
            event.time_ms,
            *(getattr(score.intent, horizon) for horizon in HORIZONS),
            *(getattr(score.intent_percentile, horizon, None) for horizon in HORIZONS),  # of what is unset, none
            score.risk.score,
            score.risk.reasons,
            [{"code": reason.code, "weight": reason.weight} for reason in score.reasons],
            score.window.events,
            window.extent(after)[1],
            score.window.digest,
            score.model.name,
            score.model.version,
        )

    def _flush(self) -> None:
        columns = zip(*self._waiting, strict=True) if self._waiting else [()] * len(SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        with _writing(self._path, IntentError):
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self.rows += len(self._waiting)
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
                with _writing(self._path, IntentError):
                    self._writer.close()
                    put(self._partial, self._path)
        finally:
            with suppress(OSError, pa.ArrowException):  # what ended the replay is the error to tell
                self._writer.close()
            self._held.close()


@contextmanager
def _writing(path: Path, kind: type[IntentError]) -> Iterator[None]:
    """What the file system refuses, as one sentence."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split())
        raise kind(
            f"--out is {str(path)!r}, which cannot be written: {reason}; "
            "name a file on a disk with room, in a folder that this user may write to"
        ) from None
