"""A fetch's records come out whole and once each, whatever the names of their headers are."""

from collections.abc import Sequence

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import TopicPartition

from tests.unit.stream.fetched import Latin, builder
from worker.stream.records import Batches, Records

LZ4 = 3
READ_COMMITTED = 1
WRITER = 7
TRANSACTIONAL, CONTROL = 0x10, 0x20
ABORT = b"\0\0\0\0"


def batch(
    first: int, *names: str, compression: int = 0, producer: int = -1, flags: int = 0, key: bytes = b"key"
) -> bytes:
    """A record for each name, with one header."""
    made = builder(
        _DefaultRecordBatchBuilderPy,
        compression_type=compression,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
    )
    for place, name in enumerate(names):
        made.append(place, timestamp=17, key=key, value=b"value", headers=[(Latin(name), b"header")])
    built = bytearray(made.build())
    built[:8] = first.to_bytes(8, "big")
    built[22] |= flags
    return bytes(built)


def fetched(*batches: bytes, start: int = 0, aborted: Sequence[tuple[int, int]] = ()) -> Records:
    raw = Batches(b"".join(batches))
    return Records(TopicPartition("events", 0), raw, list(aborted), start, None, None, False, READ_COMMITTED)


def names(records: Records) -> list[tuple[int, str]]:
    return [(record.offset, record.headers[0][0]) for record in records]


@pytest.mark.parametrize("compression", [0, LZ4])
def test_a_name_that_is_no_utf_8_is_marked_and_holds_nothing_up(compression: int) -> None:
    records = fetched(batch(0, "a", "b"), batch(2, "c", "d\xe9", "e", compression=compression), batch(5, "f"))
    assert names(records) == [(0, "a"), (1, "b"), (2, "c"), (3, "d\ufffd"), (4, "e"), (5, "f")]
    assert records.next_fetch_offset == 6


def test_the_rest_of_such_a_record_is_as_it_came() -> None:
    (record,) = list(fetched(batch(0, "\xff")))
    assert (record.timestamp, record.key, record.value) == (17, b"key", b"value")
    assert (type(record.key), type(record.value), record.headers) == (bytes, bytes, [("\ufffd", b"header")])


def test_a_fetch_may_begin_within_a_batch() -> None:
    assert names(fetched(batch(0, "a", "b", "\xe9", "d"), start=1)) == [(1, "b"), (2, "\ufffd"), (3, "d")]


def test_what_was_aborted_before_and_behind_stays_out() -> None:
    def aborted(first: int) -> list[bytes]:
        return [
            batch(first, "aborted", producer=WRITER, flags=TRANSACTIONAL),
            batch(first + 1, "marker", producer=WRITER, flags=TRANSACTIONAL | CONTROL, key=ABORT),
        ]

    records = fetched(
        *aborted(0), batch(2, "a", "\xe9"), *aborted(4), batch(6, "b"), aborted=[(WRITER, 0), (WRITER, 4)]
    )
    assert names(records) == [(2, "a"), (3, "\ufffd"), (6, "b")]
