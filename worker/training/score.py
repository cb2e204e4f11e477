"""Scores a slice of a source offline, through the same window fold and the same engine as the stream.

Every instant (see `labels`) of the range gets a row; events before the range are folded, not scored, so that windows
are as full as they were live. Owns the table's columns. Memory stays bounded by the visitors' windows.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker import window
from worker.errors import IntentError
from worker.events import Event
from worker.scores import HORIZONS
from worker.scoring.answer import Scores
from worker.scoring.engine import Engine
from worker.shop.source import Source
from worker.training.windows import fold_all
from worker.whole import written

Keys = Mapping[str, tuple[pa.DataType, Callable[[Event, bytes], object]]]
"""The columns that say which instant a row is: their types, and how they come from the event and its window."""

GA360: Final[Keys] = {
    "visitor_id": (pa.string(), lambda event, _: event.user_id),
    "session_id": (pa.string(), lambda event, _: event.session_id),
    "hit_number": (pa.int32(), lambda event, _: int(event.event_id.rpartition("-")[2])),  # as ga360 makes it
    "timestamp_ms": (pa.int64(), lambda event, _: event.time_ms),
}
TABLE: Final[Keys] = {
    "user_id": (pa.string(), lambda event, _: event.user_id),
    "session_id": (pa.string(), lambda event, _: event.session_id),
    "event_id": (pa.string(), lambda event, _: event.event_id),
    "timestamp_ms": (pa.int64(), lambda event, _: event.time_ms),
    "window_digest": (pa.string(), lambda _, after: window.digest(after)),
}


def schema(keys: Keys) -> pa.Schema:
    """The table's columns: `keys`, then a probability each horizon."""
    return pa.schema(
        [*((name, kind) for name, (kind, _) in keys.items()), *((name, pa.float32()) for name in HORIZONS)]
    )


SCHEMA: Final = schema(GA360)

PERCENTILES: Final = [pa.field(name.replace("purchase", "percentile"), pa.float32()) for name in HORIZONS]
"""Further columns where the bundle has a reference for them."""

_ROWS = 8192


def score(
    source: Source,
    out: Path,
    *,
    engine: Engine,
    keys: Keys = GA360,
    from_ms: int | None = None,
    to_ms: int | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> int:
    """Writes the table for from <= time < to (UTC ms); the number of its rows. `report` hears of events gone through.

    A file that was at `out` stays as it was until the new one is complete. Raises `IntentError` where nothing is to be
    scored.
    """
    rows = 0
    columns = pa.schema([*schema(keys), *(PERCENTILES if engine.ranks else ())])
    try:
        with written(out) as beside:
            with pq.ParquetWriter(beside, columns, compression="zstd") as writer:
                for table in _scored(source, engine, _instants(source, from_ms, to_ms, report), keys, columns):
                    writer.write_table(table)
                    rows += len(table)
            if not rows:
                lost = source.losses()
                raise IntentError(
                    f"{source.name} has no event to score from --from to --to" + (f": {lost}" if lost else "")
                )
    except OSError as error:
        raise IntentError(f"{out} cannot be written: {error}") from None
    return rows


def _instants(
    source: Source, from_ms: int | None, to_ms: int | None, report: Callable[[int], None]
) -> Iterator[tuple[Event, bytes]]:
    """The events to be scored, each with its window."""
    for number, (event, after) in enumerate(fold_all(source.events(None, to_ms)), start=1):
        if number % _ROWS == 0:
            report(number)
        if source.scored(event) and (from_ms is None or event.time_ms >= from_ms):
            yield event, after


def _scored(
    source: Source, engine: Engine, instants: Iterator[tuple[Event, bytes]], keys: Keys, columns: pa.Schema
) -> Iterator[pa.Table]:
    """The instants' tables. An error of the system's while these are read or scored is no fault of the file's."""
    try:
        for chunk in _chunks(instants):
            yield _table(chunk, engine.score_now([after for _, after in chunk]), keys, columns)
    except OSError as error:
        raise IntentError(f"{source.name} cannot be scored: {error}") from error


def _chunks(instants: Iterator[tuple[Event, bytes]]) -> Iterator[list[tuple[Event, bytes]]]:
    while chunk := list(islice(instants, _ROWS)):
        yield chunk


def _table(instants: list[tuple[Event, bytes]], scores: Scores, keys: Keys, columns: pa.Schema) -> pa.Table:
    ranks = () if scores.intent_percentile is None else scores.intent_percentile.astype(np.float32).T
    values = [*([told(*instant) for instant in instants] for _, told in keys.values()), *scores.intent.T, *ranks]
    arrays = [pa.array(column, kind) for column, kind in zip(values, columns.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=columns)
