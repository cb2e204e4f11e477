"""Compressed record batches, unpacked within a bound. All that knows codecs; knows nothing of what is in a batch.

Kafka bounds the compressed size alone: 8 kB of zstd may hold 500 MB, and aiokafka would unpack it whole. The parsers
look their codecs up in their modules, where those below stand instead; the bound is the process's, as they are.

Private parts of aiokafka 0.14.0 in use: `gzip_decode`, `lz4_decode`, `snappy_decode`, `zstd_decode` in
`record.default_records`, `record._crecords.default_records` and, but for zstd, `record._crecords.legacy_records`.
"""

import struct
import threading
from collections.abc import Callable, Iterator
from typing import Final

import cramjam
from aiokafka.record import default_records
from aiokafka.record._crecords import default_records as quick_records
from aiokafka.record._crecords import legacy_records

from worker.errors import Invalid
from worker.settings import Worker

_HAND_BYTES: Final = 1 << 20
"""Nearly all batches fit: clients make them of 16 kB to 1 MB."""
_FULL: Final = "failed to write whole buffer"
"""What Rust says of an output that is too small."""
_XERIAL: Final = b"\x82SNAPPY\0\0\0\0\1\0\0\0\1"
"""What the blocks of Java's library begin with, in the version that aiokafka reads."""


class Hand:
    """What one thread unpacks with; cramjam lets others run meanwhile."""

    __slots__ = ("buffer", "bytes", "view")

    def __init__(self) -> None:
        self.buffer = bytearray(_HAND_BYTES)
        self.view = memoryview(self.buffer)
        self.bytes = 0
        """Unpacked so far; of a batch that was given up, all that it was allowed."""


class _Bound:
    def __init__(self) -> None:
        self.bytes: int = Worker().max_unpacked_batch_bytes


class _Local(threading.local):
    def __init__(self) -> None:
        self.hand = Hand()


_bound, _local = _Bound(), _Local()


def at_most(count: int) -> None:
    """So many bytes of one batch from now on, in this process."""
    _bound.bytes = count


def hand() -> Hand:
    """That of the thread which calls."""
    return _local.hand


def gzip(packed: bytes) -> bytes:
    """Raises `Invalid`, as the others do: `too_large` for what exceeds the bound, `unreadable` for what is damaged."""
    return _within(cramjam.gzip.decompress_into, packed)


def lz4(packed: bytes) -> bytes:
    """A frame, or several."""
    return _within(cramjam.lz4.decompress_into, packed)


def zstd(packed: bytes) -> bytes:
    """Likewise."""
    return _within(cramjam.zstd.decompress_into, packed)


def snappy(packed: bytes) -> bytes:
    """In the blocks of Java's library, or one block as librdkafka's. Each says how long it is."""
    try:
        if len(packed) <= len(_XERIAL) or not packed.startswith(_XERIAL):
            return _within(cramjam.snappy.decompress_raw_into, packed, size=cramjam.snappy.decompress_raw_len(packed))
        blocks = list(_blocks(packed))
        if sum(map(cramjam.snappy.decompress_raw_len, blocks)) > _bound.bytes:
            raise _given_up()
        plain = b"".join([bytes(cramjam.snappy.decompress_raw(block)) for block in blocks])
    except (cramjam.DecompressionError, struct.error) as error:
        raise _damaged(error) from None
    _local.hand.bytes += len(plain)
    return plain


def _blocks(packed: bytes) -> Iterator[bytes]:
    at = len(_XERIAL)
    while at < len(packed):
        (size,) = struct.unpack_from("!I", packed, at)
        at += 4 + size
        yield packed[at - size : at]


def _within(into: Callable[[bytes, bytearray], int], packed: bytes, *, size: int = 0) -> bytes:
    """By way of a buffer at hand, which a batch leaves again as bytes of its own length.

    `size` is what it says of itself, if anything.
    """
    mine = _local.hand
    room = mine.buffer
    if size > _bound.bytes:
        raise _given_up()
    try:
        if size <= _HAND_BYTES:
            count = into(packed, room)
            mine.bytes += count
            return bytes(mine.view[:count])
    except cramjam.DecompressionError as error:
        if _FULL not in str(error):
            raise _damaged(error) from None
    room = bytearray(_bound.bytes)  # zeros that take no memory until they are written to
    try:
        count = into(packed, room)
    except cramjam.DecompressionError as error:
        raise (_given_up() if _FULL in str(error) else _damaged(error)) from None
    mine.bytes += count
    return bytes(memoryview(room)[:count])


def _given_up() -> Invalid:
    return _invalid(
        "too_large",
        f"the record's batch unpacks to more than {_bound.bytes} bytes (setting `worker.max_unpacked_batch_bytes`)",
    )


def _damaged(error: Exception) -> Invalid:
    return _invalid("unreadable", f"the record's batch cannot be unpacked: {error}")


def _invalid(reason: str, message: str) -> Invalid:
    """Counts as all that it was allowed: damage comes to light at the end, perhaps."""
    _local.hand.bytes += _bound.bytes
    return Invalid(reason, message)


for _module in (default_records, quick_records, legacy_records):
    _module.gzip_decode, _module.snappy_decode, _module.lz4_decode = gzip, snappy, lz4
for _module in (default_records, quick_records):
    _module.zstd_decode = zstd
