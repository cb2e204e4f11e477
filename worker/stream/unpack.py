"""Compressed record batches, unpacked within a bound. All that knows codecs; knows nothing of what is in a batch.

Kafka bounds the compressed size alone: 8 kB of zstd may hold 500 MB, and aiokafka would unpack it whole. The parsers
look their codecs up in their modules, where those below stand instead; the bound is the process's, as they are.

Private parts of aiokafka 0.14.0 in use: `gzip_decode`, `lz4_decode`, `snappy_decode`, `zstd_decode` in
`record.default_records`, `record._crecords.default_records` and, but for zstd, `record._crecords.legacy_records`;
`codec._detect_xerial_stream`.
"""

import struct
import threading
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import cramjam
from aiokafka.codec import _detect_xerial_stream
from aiokafka.record import default_records
from aiokafka.record._crecords import default_records as quick_records
from aiokafka.record._crecords import legacy_records

from worker.errors import Invalid
from worker.settings import Worker

_HAND_BYTES: Final = 1 << 20
"""Nearly all batches fit: clients make them of 16 kB to 1 MB."""
_FULL: Final = "failed to write whole buffer"
"""What Rust says of an output that is too small."""
_XERIAL_HEADER_BYTES: Final = 16


class _Bound:
    def __init__(self) -> None:
        self.bytes: int = Worker().max_unpacked_batch_bytes


class _Thread(threading.local):
    """Each thread's own: cramjam lets others run."""

    def __init__(self) -> None:
        self.hand = bytearray(_HAND_BYTES)
        self.seen = memoryview(self.hand)
        self.bytes = 0


_bound, _thread = _Bound(), _Thread()


def at_most(count: int) -> None:
    """So many bytes of one batch from now on, in this process."""
    _bound.bytes = count


def unpacked() -> int:
    """Bytes that this thread has unpacked so far; of a batch that was given up, all that it was allowed."""
    return _thread.bytes


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
        blocks = list(_xerial(packed)) if _detect_xerial_stream(packed) else [packed]
        size = sum(map(cramjam.snappy.decompress_raw_len, blocks))
        if size > _bound.bytes:
            _give_up()
        plain = b"".join([bytes(cramjam.snappy.decompress_raw(block)) for block in blocks])
    except (cramjam.DecompressionError, struct.error) as error:
        raise _damaged(error) from None
    _thread.bytes += len(plain)
    return plain


def _xerial(packed: bytes) -> Iterator[bytes]:
    at = _XERIAL_HEADER_BYTES
    while at < len(packed):
        (size,) = struct.unpack_from("!I", packed, at)
        at += 4 + size
        yield packed[at - size : at]


def _within(into: Callable[[bytes, bytearray], int], packed: bytes) -> bytes:
    """By way of a buffer at hand, which a batch leaves again as bytes of its own length."""
    try:
        count = into(packed, _thread.hand)
    except cramjam.DecompressionError as error:
        if _FULL not in str(error):
            raise _damaged(error) from None
        return _large(into, packed)
    _thread.bytes += count
    return bytes(_thread.seen[:count])


def _large(into: Callable[[bytes, bytearray], int], packed: bytes) -> bytes:
    room = bytearray(_bound.bytes)  # zeros that take no memory until they are written to
    try:
        count = into(packed, room)
    except cramjam.DecompressionError as error:
        if _FULL not in str(error):
            raise _damaged(error) from None
        del room
        _give_up()
    _thread.bytes += count
    return bytes(memoryview(room)[:count])


def _give_up() -> NoReturn:
    _thread.bytes += _bound.bytes
    raise Invalid(
        "too_large",
        f"the record's batch unpacks to more than {_bound.bytes} bytes (setting `worker.max_unpacked_batch_bytes`)",
    )


def _damaged(error: Exception) -> Invalid:
    return Invalid("unreadable", f"the record's batch cannot be unpacked: {error}")


for _module in (default_records, quick_records, legacy_records):
    _module.gzip_decode, _module.snappy_decode, _module.lz4_decode = gzip, snappy, lz4
for _module in (default_records, quick_records):
    _module.zstd_decode = zstd
