"""Scores a slice of the sample offline, through the same window fold and the same engine as the stream.

Every instant (see `labels`) of the range gets a row; events before the range are folded, not scored, so that windows
are as full as they were live. Owns the table's columns. Memory stays bounded by the visitors' windows.
"""

from collections.abc import Callable, Iterator
from itertools import islice, starmap
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker.errors import IntentError
from worker.events import Event
from worker.scores import HORIZONS
from worker.scoring.answer import Scores
from worker.scoring.engine import Engine
from worker.shop.ga360 import ORDER_COMPLETED, Sample
from worker.training.windows import fold_all

SCHEMA: Final = pa.schema(
    [
        ("visitor_id", pa.string()),
        ("session_id", pa.string()),
        ("hit_number", pa.int32()),
        ("timestamp_ms", pa.int64()),
        *((name, pa.float32()) for name in HORIZONS),
    ]
)

PERCENTILES: Final = [(name.replace("purchase", "percentile"), pa.float32()) for name in HORIZONS]
"""Further columns where the bundle has a reference for them."""

_ROWS = 8192


def score(
    sample: Sample,
    out: Path,
    *,
    engine: Engine,
    from_ms: int | None = None,
    to_ms: int | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> int:
    """Writes the table for from <= time < to (UTC ms); the number of its rows. `report` hears of events gone through.

    A file that was at `out` stays as it was until the new one is complete.
    """
    partial = out.with_name(f"{out.name}.partial")
    rows = 0
    schema = pa.schema([*SCHEMA, *starmap(pa.field, PERCENTILES)]) if engine.ranks else SCHEMA
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for chunk in _chunks(_instants(sample, from_ms, to_ms, report)):
                scores = engine.score_now([window for _, window in chunk])
                writer.write_table(_table([event for event, _ in chunk], scores, schema))
                rows += len(chunk)
        partial.replace(out)
    except OSError as error:
        raise IntentError(f"{out} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _instants(
    sample: Sample, from_ms: int | None, to_ms: int | None, report: Callable[[int], None]
) -> Iterator[tuple[Event, bytes]]:
    """The events to be scored, each with its window."""
    for number, (event, window) in enumerate(fold_all(sample.events(None, to_ms)), start=1):
        if number % _ROWS == 0:
            report(number)
        if event.page != ORDER_COMPLETED and (from_ms is None or event.time_ms >= from_ms):
            yield event, window


def _chunks(instants: Iterator[tuple[Event, bytes]]) -> Iterator[list[tuple[Event, bytes]]]:
    while chunk := list(islice(instants, _ROWS)):
        yield chunk


def _table(events: list[Event], scores: Scores, schema: pa.Schema) -> pa.Table:
    columns = [
        [event.user_id for event in events],
        [event.session_id for event in events],
        [int(event.event_id.rpartition("-")[2]) for event in events],  # as ga360 makes it
        [event.time_ms for event in events],
        *scores.intent.T,
        *(() if scores.intent_percentile is None else scores.intent_percentile.astype(np.float32).T),
    ]
    return pa.Table.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
    )
