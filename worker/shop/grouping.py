"""Which rows of a table are one event: those of one user and one event id. Knows nothing of what an event holds."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from worker.shop.columns import TEXT, Rejects
from worker.shop.mapping import Columns

Rows = NDArray[np.int64]

_NOTHING, _DASH, _SEPARATOR = (pa.scalar(text, TEXT) for text in ("", "-", "\0"))


def grouped(
    order: Rows, content: pa.Table, columns: Columns, time_ms: Rows, numbers: Rows, rejects: Rejects
) -> tuple[Rows, Rows]:
    """(rows in stream order, those of one event together; where each event's begin in that order).

    `order` holds the rows in stream order, `time_ms` and `numbers` each row's time and place in the file. A row that
    names no id is an event by itself. An id belongs to its first row: one of another type or time is another event
    under an id that is not an event's own, and is rejected (`id`), for it would vanish in the first.
    """
    if not columns.ids:
        return order, np.arange(len(order))
    user, kind, *ids = (_texts(content[name], order) for name in (columns.user_id, columns.type, *columns.ids))
    names = pc.binary_join_element_wise(*ids, _DASH)  # the ids that the events will have
    codes = _codes(pc.binary_join_element_wise(user, names, _SEPARATOR))
    without = pc.equal(pc.binary_join_element_wise(*ids, _NOTHING, _NOTHING), "").to_numpy()
    codes = np.where(without, len(order) + np.arange(len(order)), codes)
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    owner = first[which]
    kinds, times = _codes(kind), time_ms[order]
    others = np.flatnonzero((kinds != kinds[owner]) | (times != times[owner]))
    for place, name in zip(others, names.take(pa.array(others)).to_pylist(), strict=True):
        rejects.add(
            "id",
            int(numbers[order[place]]),
            f"its event_id {name!r} is that of row {numbers[order[owner[place]]]}, which has another type or time; map "
            "event_id to an id that is an event's own, not an order's or a cart's",
        )
    order, owner = np.delete(order, others), np.delete(owner, others)
    together = np.argsort(owner, kind="stable")
    return order[together], np.flatnonzero(np.append(True, np.diff(owner[together]) != 0))


def _texts(column: pa.ChunkedArray, order: Rows) -> pa.ChunkedArray:
    return column.take(pa.array(order)).cast(TEXT).fill_null("")


def _codes(texts: pa.ChunkedArray) -> Rows:
    """A number for each text, the same for the same."""
    codes: Rows = texts.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes
