"""The records of one fetch, whatever they are and however many. All that knows aiokafka's record parsers.

Kafka takes any bytes for a header's name, and some clients send them; aiokafka's parser takes only UTF-8, and raises at
such a record for ever. The batch is then read by its other parser, in Python, with marks for what is no text. Kafka
bounds what a batch takes packed, and nothing else: of one that unpacks to too much, or to too many headers, or is
damaged though its checksum holds, each record is told without its content (`Unread`). And a fetch of many such batches
is handed out in portions.

Private parts of aiokafka 0.14.0 in use: `PartitionRecords`, `_records`, `_records_iterator`, `_unpack_records`;
`FetchResult._partition_records`; `_DefaultRecordBatchPy._maybe_uncompress`, `_read_msg`, `_buffer`; what `unpack` says,
in place of which stands what is below in `record._crecords.default_records`.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import structlog
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record._crecords import default_records as quick_records
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint, decode_varint_py

from worker.errors import Invalid
from worker.fold import Unread
from worker.stream import unpack

PORTION_BYTES: Final = 4 << 20
"""Unpacked, after which a portion ends with its batch: as much as a fetch brings of batches that are not packed."""
_PATIENT_NUMBERS: Final = 1 << 19
"""Read of one batch in Python, 1 to 3 µs each: seven of a record and two of a header, mostly lengths. A batch of 2 kB
may unpack to 32 million, and who reads for longer than a session lasts sends no heartbeat: the partition would go from
worker to worker, and never on.
"""
_HEADERS: Final = 1 << 20
"""Of one packed batch; each takes 66 to 150 bytes of memory. Of two bytes each, a batch within the bound on bytes may
hold 16 million: a gigabyte, of 3 kB that were sent.
"""
_NUMBERS_BYTES: Final = 64
"""More than four numbers and a byte take, between two looks at where all ends: theirs in C reads on behind that."""
_BATCH: Final = struct.Struct(">qi")
"""What a batch of any version begins with: an offset, and how many bytes follow."""

log = structlog.get_logger(__name__)


class Batches:
    """A fetch's record batches, by the quick parser; and its bytes, should they be needed once more."""

    def __init__(self, fetched: bytes) -> None:
        quick = MemoryRecords(fetched)
        self.fetched = fetched
        self.size_in_bytes = quick.size_in_bytes
        self.current: Any = None
        self._more, self._next = quick.has_next, quick.next_batch
        self._hand = unpack.hand()
        self._until = sys.maxsize
        self._raw_at = 0
        self.paused = False
        """Whether the portion's end, and not the fetch's, was told."""

    def has_next(self) -> bool:
        """Whether another belongs to this portion."""
        if self._hand.bytes < self._until:
            more: bool = self._more()
            return more
        self.paused = self._more()
        return False

    def next_batch(self) -> Any:
        """Which is `current` then; none is where there is no batch to be made of the bytes."""
        self.current = None
        self.current = self._next()
        return self.current

    def begin_portion(self) -> None:
        """The next begins here, in the thread that will unpack it."""
        self._hand, self.paused = unpack.hand(), False
        self._until = self._hand.bytes + PORTION_BYTES

    def end_portion(self) -> None:
        """With the current batch, which may take as long as a whole one."""
        self._hand.bytes += PORTION_BYTES

    def raw(self) -> memoryview:
        """The current batch's bytes."""
        batch, view = self.current, memoryview(self.fetched)
        begins_with = getattr(batch, "base_offset", batch.next_offset - 1)  # the latter in formats before Kafka 0.11
        while True:  # from the last that was asked for on: from the beginning, a fetch of many such took a minute
            offset, size = _BATCH.unpack_from(view, self._raw_at)
            if offset == begins_with:
                return view[self._raw_at : self._raw_at + _BATCH.size + size]
            self._raw_at += _BATCH.size + size

    def sound(self) -> bool:
        """Whether the current batch's checksum holds."""
        sound: bool = MemoryRecords(bytes(self.raw())).next_batch().validate_crc()
        return sound


class Records(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """One partition's. Each is as the parser made it: the 11-field `ConsumerRecord` costs 1 µs more."""

    next_fetch_offset: int
    _records: Batches
    _records_iterator: Iterator[Any]
    _told = False

    def _consumer_record(self, tp: Any, record: Any) -> Any:  # noqa: ARG002 - theirs
        # Of a batch that is not packed, Kafka takes any: one far behind it would pass all between for done.
        if record.offset != self.next_fetch_offset and record.offset >= self._records.current.next_offset:
            raise CorruptRecordException(f"a record of it says to lie at offset {record.offset}, behind its end")
        return record

    def __next__(self) -> Any:
        while True:  # each turn has another batch, or the other parser
            try:
                return next(self._records_iterator)
            except UnicodeDecodeError:
                self._records_iterator = self._patiently()
            except Invalid as error:
                # Not the one that was raised: it holds the frames of its way here, and so what was unpacked.
                self._records_iterator = self._unread(Invalid(error.reason, str(error)))
            except CorruptRecordException as error:
                # A wrong checksum may be right in the next fetch. Behind a right one the bytes are what a broker took.
                if self._records.current is None or not self._records.sound():
                    raise
                self._records_iterator = self._unread(
                    Invalid("unreadable", f"the record's batch cannot be read: {error}")
                )

    def begin_portion(self) -> None:
        """What comes now, until it ends, is one portion."""
        self._records.begin_portion()

    def go_on(self) -> bool:
        """After the end of a portion: whether there is another."""
        if self._records.paused:
            self._records_iterator = self._unpack_records()
        return self._records.paused

    def _patiently(self) -> Iterator[Any]:
        """What has not come yet of this batch, and the others quickly again."""
        self._records.end_portion()
        batch = _PatientBatch(self._records.raw())
        for record in batch:
            if record.offset >= self.next_fetch_offset:
                checked = self._consumer_record(self._tp, record)
                self.next_fetch_offset = record.offset + 1
                yield checked
        self.next_fetch_offset = batch.next_offset
        yield from self._unpack_records()

    def _unread(self, why: Invalid) -> Iterator[Any]:
        """Likewise. All offsets of the batch count as records, which they are but in a compacted topic.

        The log has a line for the first of a fetch: one for each of the many that may be in it takes longer than they.
        """
        batch, size = self._records.current, len(self._records.raw())
        first = max(self.next_fetch_offset, getattr(batch, "base_offset", 0))
        if first < batch.next_offset and not self._told:
            self._told = True
            log.error(
                "a batch of records cannot be read",
                topic=self._tp.topic,
                partition=self._tp.partition,
                offset=first,
                records=batch.next_offset - first,
                packed_bytes=size,
                why=str(why),
            )
        timestamp = getattr(batch, "max_timestamp", -1)
        for offset in range(first, batch.next_offset):
            self.next_fetch_offset = offset + 1
            yield Unread(offset, timestamp, size, why)
        self.next_fetch_offset = batch.next_offset
        yield from self._unpack_records()


class Portions(fetcher.FetchResult):  # type: ignore[misc]  # as above
    """One partition's fetch, handed out as far as it has unpacked not much more than `PORTION_BYTES`."""

    _partition_records: Records | None

    def getall(self, max_records: int | None = None) -> list[Any]:
        """The next portion; empty only at the end, or where another position was sought."""
        while True:
            records = self._partition_records
            if records is not None:
                records.begin_portion()
            given: list[Any] = super().getall(max_records)
            if records is None or self._partition_records is not None or not records.go_on():
                return given
            self._partition_records = records
            if given:
                return given


def _few_headers(unpacked: Callable[[bytes], bytes], packed: bytes) -> bytes:
    """Unpacked. Raises `Invalid` where it tells of too many headers, before an object is made of any.

    Looks at a record's lengths only, 1 µs each, and at none of a batch too small to hold so many, as nearly all are.
    """
    plain = unpacked(packed)
    if len(plain) > 2 * _HEADERS and _headers(plain) > _HEADERS:
        raise Invalid("too_large", f"the record's batch unpacks to more than {_HEADERS} headers")
    return plain


def _headers(plain: bytes) -> int:
    """So many the parser would read, but for those of the last few bytes. It looks at a record's length last, and reads
    no further where that is wrong.
    """
    at = found = 0
    end = len(plain) - _NUMBERS_BYTES
    try:
        while at < end:
            length, begin = decode_varint(plain, at)
            _, at = decode_varint(plain, begin + 1)  # behind the attributes: the time
            _, at = decode_varint(plain, at)  # the offset
            for _ in ("key", "value"):
                size, at = decode_varint(plain, at)
                at += max(size, 0)
                if at >= end:
                    return found
            count, _ = decode_varint(plain, at)
            found += max(count, 0)
            if begin + length <= at:
                break
            at = begin + length
    except ValueError:  # the parser comes so far, and tells what is wrong
        pass
    return found


for _name in ("gzip", "snappy", "lz4", "zstd"):
    setattr(quick_records, f"{_name}_decode", partial(_few_headers, getattr(unpack, _name)))


class _PatientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # as above
    _buffer: Any
    _patience = _PATIENT_NUMBERS

    def _read_msg(self) -> Any:
        return super()._read_msg(self._number)  # theirs in C reads on behind the end of what is damaged

    def _number(self, buffer: Any, at: int) -> Any:
        self._patience -= 1
        if self._patience < 0:
            raise Invalid("too_large", "names of headers in the record's batch are no UTF-8, and it holds too many")
        return decode_varint_py(buffer, at)

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Text(self._buffer)


class _Text(bytearray):
    """A part of it is decoded with marks for what is no UTF-8."""

    def __getitem__(self, place: Any) -> Any:
        part = super().__getitem__(place)
        return _Text(part) if isinstance(place, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)
