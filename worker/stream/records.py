"""The records of one fetch, whatever the names of their headers are. All that knows aiokafka's record parsers.

Kafka takes any bytes for a name, and some clients send them; aiokafka's parser takes only UTF-8, and raises at such a
record for ever. The fetch is then read again from there by its other parser, in Python, with marks for what is no text.

Private parts of aiokafka 0.14.0 in use: `PartitionRecords`, `_records`, `_records_iterator`, `_aborted_transactions`,
`_aborted_producers`, `_unpack_records`; `_MemoryRecordsPy._next_slice`; `_DefaultRecordBatchPy._maybe_uncompress`,
`_buffer`.
"""

from collections.abc import Iterator
from itertools import dropwhile
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

_HEADERS_SINCE: Final = 2
"""Version of record batches."""


class Batches:
    """A fetch's record batches, by the quick parser; and its bytes, should they be needed once more."""

    def __init__(self, fetched: bytes) -> None:
        quick = MemoryRecords(fetched)
        self.fetched = fetched
        self.has_next, self.next_batch, self.size_in_bytes = quick.has_next, quick.next_batch, quick.size_in_bytes


class Records(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """One partition's. Each is as the parser made it: the 11-field `ConsumerRecord` costs 1 µs more."""

    _aborted_transactions: Any
    _aborted_producers: Any
    _records_iterator: Any

    def __init__(self, tp: Any, records: Batches, aborted_transactions: Any, *others: Any) -> None:
        super().__init__(tp, records, aborted_transactions, *others)
        self._fetched = records.fetched
        self._aborted = tuple(self._aborted_transactions)

    def _consumer_record(self, tp: Any, record: Any) -> Any:  # noqa: ARG002 - theirs
        return record

    def __next__(self) -> Any:
        try:
            return next(self._records_iterator)
        except UnicodeDecodeError:
            self._records_iterator = self._once_more()
            return next(self._records_iterator)

    def _once_more(self) -> Iterator[Any]:
        """What has not come yet."""
        due = self.next_fetch_offset
        self._records = _PatientBatches(self._fetched)
        self._aborted_transactions, self._aborted_producers = list(self._aborted), set()
        return dropwhile(lambda record: record.offset < due, self._unpack_records())


class _PatientBatches(_MemoryRecordsPy):  # type: ignore[misc]  # as above
    def next_batch(self) -> Any:
        raw, quick = self._next_slice, super().next_batch()
        return _PatientBatch(raw) if quick.magic >= _HEADERS_SINCE else quick


class _PatientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # as above
    _buffer: Any

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
