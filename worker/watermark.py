"""How far a source partition is done: the record that makes a batch's effects and its progress one thing.

It lives under a reserved key of the table's changelog partition and in its RocksDB, written in the transaction and the
write batch of the windows it belongs to. Knows only its own codec.
"""

from struct import Struct
from typing import Final, NamedTuple, Self

from worker.errors import Fatal

KEY: Final = b"\xffwatermark"
"""No user's key: 0xff occurs in no UTF-8 text."""

_VERSION: Final = 1
_LAYOUT: Final = Struct("<Bqq")


class Watermark(NamedTuple):
    """`offset`: the last source offset done, -1 before any. `newest_ms`: the partition's newest event time, UTC ms."""

    offset: int = -1
    newest_ms: int = 0

    def encode(self) -> bytes:
        """17 bytes."""
        return _LAYOUT.pack(_VERSION, *self)

    @classmethod
    def decode(cls, stored: bytes | None) -> Self:
        """From what `encode` wrote; `None` is a partition never read. Raises `Fatal` for anything else."""
        if stored is None:
            return cls()
        if len(stored) != _LAYOUT.size or stored[0] != _VERSION:
            raise Fatal("the stored watermark is unreadable; its state folder or changelog is damaged")
        return cls(*_LAYOUT.unpack(stored)[1:])
