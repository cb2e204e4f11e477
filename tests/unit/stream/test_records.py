"""A fetch's records come out whole and once each, whatever they are and however many."""

import gc
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record._crecords import LegacyRecordBatchBuilder
from aiokafka.record._crecords import default_records as quick_records
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from structlog.testing import capture_logs

from tests.unit.stream.fetched import Latin, builder
from worker.fold import Unread
from worker.settings import Worker
from worker.stream import unpack
from worker.stream.records import _BATCH, PORTION_BYTES, Batches, Portions, Records, _headers, _PatientBatch

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
READ_COMMITTED = 1
WRITER = 7
TRANSACTIONAL, CONTROL, LOG_APPEND_TIME = 0x10, 0x20, 0x08
ABORT = b"\0\0\0\0"
COMMIT = b"\0\0\0\1"
EVENTS = TopicPartition("events", 0)
BOUND = 2 << 20

packings = pytest.mark.parametrize("compression", [GZIP, SNAPPY, LZ4, ZSTD], ids=["gzip", "snappy", "lz4", "zstd"])


@pytest.fixture(autouse=True)
def bound() -> Iterator[None]:
    unpack.at_most(BOUND)
    yield
    unpack.at_most(Worker().max_unpacked_batch_bytes)


def batch(
    first: int,
    *names: str,
    compression: int = 0,
    producer: int = -1,
    flags: int = 0,
    key: bytes = b"key",
    value: bytes = b"value",
    places: Sequence[int] = (),
) -> bytes:
    """A record for each name, with one header; at the offsets `first` + `places`, by default one behind the other."""
    made = builder(
        _DefaultRecordBatchBuilderPy,
        compression_type=compression,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 30,
    )
    for place, name in zip(places or range(len(names)), names, strict=True):
        made.append(place, timestamp=17 + place, key=key, value=value, headers=[(Latin(name), b"header")])
    built = bytearray(made.build())
    built[:8] = first.to_bytes(8, "big")
    built[22] |= flags
    built[23:27] = (len(names) - 1).to_bytes(4, "big")  # the last offset's delta, as a broker wants it
    return signed(built)


def signed(built: bytearray) -> bytes:
    """With the checksum of what it is now."""
    built[17:21] = calc_crc32c(bytes(built[21:])).to_bytes(4, "big")
    return bytes(built)


def bomb(first: int, count: int = 3, *, compression: int = ZSTD, producer: int = -1, flags: int = 0) -> bytes:
    """So many records that unpack to a bit more than the bound together."""
    value = bytes(BOUND // count + 1)
    return batch(first, *["large"] * count, compression=compression, value=value, producer=producer, flags=flags)


def repacked(built: bytes, packed: bytes) -> bytes:
    """The same batch with other records, which nobody may be able to read."""
    changed = bytearray(built[:61] + packed)
    changed[8:12] = (len(changed) - 12).to_bytes(4, "big")
    return signed(changed)


def fetched(
    *batches: bytes, start: int = 0, aborted: Sequence[tuple[int, int]] = (), kind: Any = Records, made: Any = Batches
) -> Any:
    return kind(EVENTS, made(b"".join(batches)), list(aborted), start, None, None, True, READ_COMMITTED)


def names(records: Records) -> list[tuple[int, str]]:
    return [(record.offset, record.headers[0][0]) for record in records]


@pytest.mark.parametrize("compression", [0, GZIP, SNAPPY, LZ4, ZSTD])
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


@pytest.mark.parametrize("name", ["c", "\xe9"])
def test_offsets_that_compaction_left_out_are_no_damage(name: str) -> None:
    """Between batches, and within one whose last offset is still its own."""
    holed = bytearray(batch(4, "b", name, places=[1, 3]))
    holed[23:27] = (5).to_bytes(4, "big")  # the last offset's delta
    records = fetched(batch(0, "a"), signed(holed), batch(12, "d"))
    assert names(records) == [(0, "a"), (5, "b"), (7, name.replace("\xe9", "\ufffd")), (12, "d")]
    assert records.next_fetch_offset == 13


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


def test_many_such_batches_are_each_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the beginning of the fetch each time, one of 4 MB took a minute, in which nobody sent a heartbeat."""
    head = Mock(wraps=_BATCH, size=_BATCH.size)
    monkeypatch.setattr("worker.stream.records._BATCH", head)
    assert len(list(fetched(*(batch(first, "\xe9") for first in range(1000))))) == 1000
    assert head.unpack_from.call_count <= 2000


# -- as aiokafka reads it ----------------------------------------------------------------------------------------------


def fields(records: Any) -> list[tuple[Any, ...]]:
    return [
        (record.offset, record.timestamp, record.timestamp_type, record.key, record.value, list(record.headers))
        for record in records
    ]


@pytest.mark.parametrize("compression", [0, GZIP, SNAPPY, LZ4, ZSTD])
def test_records_are_those_of_aiokafka_alone(compression: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(compression)
    batches, first = [], 0
    kinds = [(WRITER, TRANSACTIONAL), (-1, 0), (-1, LOG_APPEND_TIME), (8, TRANSACTIONAL | LOG_APPEND_TIME)]
    for _ in range(100):
        producer, flags = rng.choice(kinds)
        names = ["n" * rng.randrange(3) for _ in range(rng.randrange(1, 50))]
        value = rng.randbytes(rng.randrange(2000))
        batches.append(batch(first, *names, compression=compression, producer=producer, flags=flags, value=value))
        first += len(names)
        if producer >= 0:
            marker = rng.choice([ABORT, COMMIT])
            batches.append(batch(first, "marker", producer=producer, flags=flags | CONTROL, key=marker))
            first += 1
    aborted = [(WRITER, 0), (8, 40)]
    ours = fetched(*batches, start=5, aborted=aborted)
    read = fields(ours)
    for name in ("gzip", "snappy", "lz4", "zstd"):
        monkeypatch.setattr(quick_records, f"{name}_decode", getattr(codec, f"{name}_decode"))
    theirs = fetched(*batches, start=5, aborted=aborted, kind=fetcher.PartitionRecords, made=MemoryRecords)
    assert read == fields(theirs)
    assert 100 < len(read) < first
    assert ours.next_fetch_offset == theirs.next_fetch_offset == first


# -- what cannot be read -----------------------------------------------------------------------------------------------


def told(records: Any) -> list[tuple[int, str]]:
    return [
        (record.offset, record.why.reason if isinstance(record, Unread) else record.headers[0][0]) for record in records
    ]


@packings
def test_each_record_of_a_bomb_is_told_and_the_rest_is_read(compression: int) -> None:
    large = bomb(2, compression=compression)
    records = fetched(batch(0, "a", "b"), large, batch(5, "c", compression=compression))
    with capture_logs() as log:
        given = list(records)
    assert told(given) == [(0, "a"), (1, "b"), *((offset, "too_large") for offset in (2, 3, 4)), (5, "c")]
    assert records.next_fetch_offset == 6
    unread = given[2]
    assert (unread.timestamp, unread.key, unread.value, unread.batch_bytes) == (19, None, None, len(large))
    assert unread.headers == [("intent.cut-from-bytes", b"%d" % len(large))]
    (line,) = log
    assert (line["offset"], line["records"], line["log_level"]) == (2, 3, "error")


def test_what_was_unpacked_of_a_bomb_is_gone_with_it() -> None:
    """Without the collector, which a worker seldom needs: an error holds its frames, and these their buffers."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        given = list(fetched(*(bomb(first, 1) for first in range(20))))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert len(given) == 20
    assert held < BOUND


@pytest.mark.parametrize("start", [3, 4])
def test_a_fetch_may_begin_within_a_bomb(start: int) -> None:
    records = fetched(bomb(2), batch(5, "c"), start=start)
    assert told(records) == [*((offset, "too_large") for offset in range(start, 5)), (5, "c")]


def test_bombs_may_follow_each_other_and_end_the_fetch() -> None:
    records = fetched(bomb(0, 1), bomb(1, 1), batch(2, "\xe9"), bomb(3, 2))
    with capture_logs() as log:
        given = told(records)
    assert [line["offset"] for line in log] == [0], "a fetch may hold thousands, and a line costs more than a batch"
    assert given == [(0, "too_large"), (1, "too_large"), (2, "\ufffd"), (3, "too_large"), (4, "too_large")]
    assert records.next_fetch_offset == 5
    assert list(records) == []


def test_a_bomb_that_was_aborted_is_not_told() -> None:
    marker = batch(3, "marker", producer=WRITER, flags=TRANSACTIONAL | CONTROL, key=ABORT)
    large = bomb(0, producer=WRITER, flags=TRANSACTIONAL)
    records = fetched(large, marker, batch(4, "a"), aborted=[(WRITER, 0)])
    before = unpack.hand().bytes
    assert told(records) == [(4, "a")]
    assert unpack.hand().bytes == before


def test_the_parser_in_python_unpacks_no_more_either() -> None:
    """It gets a batch that the other one has unpacked, unless the bound has changed."""
    records = fetched(batch(0, "\xe9", "b", compression=LZ4, value=bytes(BOUND // 4)), batch(2, "c"))
    assert next(records).offset == 0
    unpack.at_most(BOUND // 4)
    records = fetched(batch(0, "\xe9", "b", compression=LZ4, value=bytes(BOUND // 4)), batch(2, "c"))
    assert told(records) == [(0, "too_large"), (1, "too_large"), (2, "c")]


@packings
def test_a_batch_that_does_not_unpack_is_told_and_passed(compression: int) -> None:
    """A broker has seen that checksum: the next fetch would bring the same."""
    damaged = repacked(batch(0, "a", "b", compression=compression), b"junk" * 10)
    assert told(fetched(damaged, batch(2, "c"))) == [(0, "unreadable"), (1, "unreadable"), (2, "c")]


def test_records_that_are_none_are_told_from_there_on() -> None:
    whole = batch(0, "a", "b", "c")
    damaged = repacked(whole, whole[61:-10])
    assert told(fetched(damaged, batch(3, "d"))) == [(0, "a"), (1, "b"), (2, "unreadable"), (3, "d")]


def test_a_length_that_leads_far_behind_the_end_is_told_by_the_parser_in_python_as_well() -> None:
    whole = batch(0, "\xe9", "b", "c")
    front, back, end = whole[61:].rpartition(b"\x06key")
    damaged = repacked(whole, front + b"\xfe\xff\xff\xff\xff\x7f" + back[1:] + end)
    assert told(fetched(damaged, batch(3, "d"))) == [(0, "\ufffd"), (1, "b"), (2, "unreadable"), (3, "d")]


def test_of_more_headers_than_patience_reads_the_rest_of_the_batch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No heartbeat is sent meanwhile, and of what fits into 2 kB they would take minutes."""
    monkeypatch.setattr(_PatientBatch, "_patience", 100)
    read = told(fetched(batch(0, "\xe9", *["a"] * 12), batch(13, "\xe9", "b"), batch(15, "c")))
    assert read[:13] == [
        (0, "\ufffd"),
        *((offset, "a") for offset in range(1, 11)),
        (11, "too_large"),
        (12, "too_large"),
    ]
    assert read[13:] == [(13, "\ufffd"), (14, "b"), (15, "c")]


def headed(*counts: int, compression: int = ZSTD) -> bytes:
    """A record for each, with so many empty headers whose names are fine."""
    made = builder(_DefaultRecordBatchBuilderPy, compression_type=compression, batch_size=1 << 30)
    for place, count in enumerate(counts):
        made.append(place, timestamp=17, key=b"key", value=bytes(200), headers=[("", b"")] * count)
    return bytes(made.build())


@packings
@pytest.mark.parametrize(
    ("counts", "read"),
    [
        pytest.param([101], False, id="in one record"),
        pytest.param([0, 50, 0, 51, 0], False, id="in several"),
        pytest.param([0, 60, 0, 40, 0], True, id="as many as are allowed"),
    ],
)
def test_a_batch_of_more_headers_than_are_allowed_is_told(
    counts: Sequence[int], compression: int, monkeypatch: pytest.MonkeyPatch, *, read: bool
) -> None:
    monkeypatch.setattr("worker.stream.records._HEADERS", 100)
    found = list(fetched(headed(*counts, compression=compression), batch(len(counts), "behind")))
    assert [record.offset for record in found] == [*range(len(counts) + 1)]
    assert [isinstance(record, Unread) for record in found[:-1]] == [not read] * len(counts)
    if read:
        assert [len(record.headers) for record in found[:-1]] == counts
    else:
        assert (found[0].why.reason, str(found[0].why)) == (
            "too_large",
            "the record's batch unpacks to more than 100 headers",
        )


def test_a_bomb_of_headers_is_told_before_any_of_them_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.stream.records._HEADERS", 1000)
    bomb = headed(500_000)
    assert len(bomb) < 3000
    tracemalloc.start()
    try:
        (only,) = list(fetched(bomb))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(only, Unread)
    assert most < 10_000_000, "the bytes, and not thirty times as many"


@pytest.mark.parametrize("seed", range(20))
def test_headers_are_counted_without_reading_behind_the_end_of_what_is_damaged(seed: int) -> None:
    """As many numbers as it takes, whatever they say: neither an endless way nor an error of its own."""
    rng = random.Random(seed)
    for size in (0, 1, 63, 64, 65, 3000):
        assert _headers(rng.randbytes(size)) >= 0
    assert _headers(b"\xff" * 3000) == 0
    assert _headers(b"\x01" * 3000) == 0, "a length of -1"


@pytest.mark.parametrize("name", ["a", "\xe9"])
def test_a_record_that_says_to_lie_behind_its_batch_does_not_move_the_position(name: str) -> None:
    """Kafka takes it in a batch that is not packed; all offsets up to there would pass for done."""
    far = batch(0, name, "far", "c", places=[0, 1000, 2])
    records = fetched(far, batch(3, "d"))
    read = name.replace("\xe9", "\ufffd")
    assert told(records) == [(0, read), (1, "unreadable"), (2, "unreadable"), (3, "d")]
    assert records.next_fetch_offset == 4


def test_more_bytes_than_records_are_passed() -> None:
    """As Kafka's own client does: it reads one frame of LZ4, and as many records as the batch says."""
    whole = batch(0, "a", "b")
    records = fetched(repacked(whole, whole[61:] + b"more"), batch(2, "c"))
    with capture_logs() as log:
        assert told(records) == [(0, "a"), (1, "b"), (2, "c")]
    assert log == []


def test_a_wrong_checksum_is_raised_as_ever() -> None:
    damaged = bytearray(batch(2, "c", compression=LZ4))
    damaged[-1] ^= 1
    records = fetched(batch(0, "a", "b"), bytes(damaged))
    assert [next(records).offset for _ in range(2)] == [0, 1]
    with pytest.raises(CorruptRecordException, match="Invalid CRC"):
        next(records)
    assert records.next_fetch_offset == 2


def test_bytes_that_are_no_batch_are_raised_as_ever() -> None:
    records = fetched(batch(0, "a"), bytes(8) + (1).to_bytes(4, "big") + b"x")
    assert next(records).offset == 0
    with pytest.raises(CorruptRecordException, match="less than the minimum record overhead"):
        next(records)


@pytest.mark.parametrize("compression", [GZIP, SNAPPY, LZ4], ids=["gzip", "snappy", "lz4"])
def test_a_bomb_in_a_format_before_kafka_0_11_is_told_as_well(compression: int) -> None:
    def old(last: int, value: bytes) -> bytes:
        made = LegacyRecordBatchBuilder(magic=1, compression_type=compression, batch_size=1 << 30)
        for place in range(2):
            made.append(place, timestamp=17, key=b"key", value=value)
        built = bytearray(made.build())
        built[:8] = last.to_bytes(8, "big")
        return bytes(built)

    records = fetched(old(1, b"value"), old(3, bytes(BOUND)), old(5, b"value"))
    given = list(records)
    assert [(record.offset, isinstance(record, Unread)) for record in given] == [
        (0, False),
        (1, False),
        (2, True),
        (3, True),
        (4, False),
        (5, False),
    ]
    assert [record.timestamp for record in given] == [17, 17, -1, -1, 17, 17]


# -- portions ----------------------------------------------------------------------------------------------------------


class Position:
    """A partition's, as far as a fetch looks at it."""

    def __init__(self, records: Records) -> None:
        self.paused = False
        self.position = records.next_fetch_offset
        self.result = Portions(
            EVENTS,
            assignment=SimpleNamespace(active=True, state_value=lambda _: self),
            partition_records=records,
            backoff=0.0,
        )

    def consumed_to(self, offset: int) -> None:
        self.position = offset

    def portions(self, at_most: int | None = None) -> list[list[Any]]:
        given = []
        while self.result.has_more():
            given.append(self.result.getall(at_most))
            last = given[-1][-1].offset if given[-1] else None
            assert last is None or last < self.position
        return given


def test_a_batch_that_takes_patience_ends_its_portion() -> None:
    position = Position(fetched(batch(0, "a"), batch(1, "b", "\xe9"), batch(3, "\xe9"), batch(4, "c"), batch(5, "d")))
    assert [[record.offset for record in given] for given in position.portions()] == [[0, 1, 2], [3], [4, 5]]


def test_a_fetch_that_unpacks_to_much_is_handed_out_in_portions() -> None:
    batches = [batch(first, "a", "b", compression=ZSTD, value=bytes(BOUND // 2 - 50)) for first in range(0, 40, 2)]
    assert len(b"".join(batches)) < BOUND // 100
    position = Position(fetched(*batches))
    portions = position.portions()
    assert [record.offset for given in portions for record in given] == list(range(40))
    assert position.position == 40
    sizes = [sum(len(record.value) for record in given) for given in portions]
    assert len(sizes) == 7
    assert max(sizes) <= PORTION_BYTES + BOUND


def test_a_fetch_of_what_is_usual_is_one_portion() -> None:
    batches = [batch(first, *"abcde", compression=LZ4) for first in range(0, 500, 5)]
    assert [len(given) for given in Position(fetched(*batches)).portions()] == [500]
    large = [batch(first, "a", value=bytes(BOUND)) for first in range(5)]
    assert [len(given) for given in Position(fetched(*large)).portions()] == [5], "a fetch bounds what is not packed"


def test_millions_that_are_not_read_are_told_a_few_at_a_time() -> None:
    large = bytearray(bomb(0))
    large[23:27] = (10**7 - 1).to_bytes(4, "big")  # the last offset's delta
    position = Position(fetched(signed(large), batch(10**7, "a")))
    for turn in range(1, 4):
        assert len(position.result.getall(1000)) == 1000
        assert position.position == 1000 * turn


def test_bombs_count_as_what_they_were_allowed() -> None:
    assert [len(given) for given in Position(fetched(*(bomb(n, 1) for n in range(5)))).portions()] == [2, 2, 1]


def test_a_portion_of_what_is_done_already_is_passed() -> None:
    batches = [batch(0, "a", "b", compression=ZSTD, value=bytes(BOUND // 2 - 50)) for _ in range(4)]
    position = Position(fetched(*batches, batch(2, "c"), start=2))
    assert [[record.offset for record in given] for given in position.portions()] == [[2]]


def test_the_rest_is_dropped_where_another_position_was_sought() -> None:
    position = Position(fetched(*(bomb(n, 1) for n in range(5))))
    first, *_ = position.result.getall()
    position.position = first.offset
    assert position.result.getall() == []
    assert not position.result.has_more()


def test_each_consumer_counts_for_itself() -> None:
    """What was unpacked before is no reason to hand out less."""
    unpack.hand().bytes += 100 * PORTION_BYTES
    batches = [batch(first, "a", compression=LZ4) for first in range(5)]
    assert Batches(b"".join(batches)).has_next()
    assert [len(given) for given in Position(fetched(*batches)).portions()] == [5]
