"""Records as a consumer hands them out, as far as queues and partitions look at them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rec:
    offset: int
    key: bytes | None = b"u"
    value: bytes | None = b""


def recs(*offsets: int) -> list[Any]:
    """Of one byte each."""
    return [Rec(offset) for offset in offsets]


def sized(first: int, *sizes: int) -> list[Any]:
    """From the offset `first` on, of so many bytes each."""
    return [Rec(offset, b"" if size else None, bytes(size)) for offset, size in enumerate(sizes, first)]
