"""What the changelog topic says about each user, decoded from the layout as `worker.window` documents it.

Code of its own: what the worker writes is not read back with what the worker writes it with.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from tests.integration.deployment import Read

WATERMARK = b"\xffwatermark"
RECENT = 128

_HEADER = struct.Struct("<BBBBq")
_CONTEXT_BYTES = 7 * 4 + 2
_ROW = struct.Struct("<IIIIIH")
_WATERMARK = struct.Struct("<Bqq22s")


@dataclass(frozen=True, slots=True)
class Window:
    """`kept`: (event time in ms, XXH3-64 of the event's id), oldest first. `recent`: ids in the order of folding."""

    kept: tuple[tuple[int, int], ...]
    recent: tuple[int, ...]


def window(stored: bytes) -> Window:
    version, n_ids, n_rows, flags, newest = _HEADER.unpack_from(stored)
    assert version == 1, f"a window of layout version {version}"
    rows_at = _HEADER.size + _CONTEXT_BYTES
    ids_at = rows_at + n_rows * _ROW.size
    order_at = ids_at + 8 * n_ids
    ids = struct.unpack_from(f">{n_ids}Q", stored, ids_at)
    order = list(stored[order_at:]) if flags & 1 else list(range(n_ids - n_rows, n_ids))
    assert len(order) == n_rows
    lows = [row[0] for row in _ROW.iter_unpack(stored[rows_at:ids_at])]
    times = [newest - (newest - low) % 2**32 for low in lows]
    return Window(tuple(zip(times, (ids[place] for place in order), strict=True)), ids[-RECENT:])


def watermark(stored: bytes) -> tuple[int, int]:
    """(last source offset done, the partition's newest event time in ms)."""
    version, offset, newest_ms, _ = _WATERMARK.unpack(stored)
    assert version == 2, f"a watermark of version {version}"
    return offset, newest_ms


def source_id(stored: bytes) -> str:
    """Of the topic that a watermark is of, as Kafka's own tools write it."""
    topic_id: bytes = _WATERMARK.unpack(stored)[-1]
    return topic_id.decode()


def newest(records: Iterable[Read]) -> dict[int, dict[bytes, bytes | None]]:
    """Per partition, what each key's last record says; `None` is a tombstone."""
    tables: dict[int, dict[bytes, bytes | None]] = {}
    for record in sorted(records, key=lambda record: (record.partition, record.offset)):
        assert record.key is not None
        tables.setdefault(record.partition, {})[record.key] = record.value
    return tables
