"""Records as a consumer hands them out, as far as queues and partitions look at them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rec:
    offset: int
    key: bytes | None = b"u"
    value: bytes | None = b""
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Latin(str):
    """A header's name as a client sends it that takes bytes for one."""

    __slots__ = ()

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:  # noqa: ARG002 - str's
        return super().encode("latin-1")


def builder(kind: Any, **but: int) -> Any:
    """One of aiokafka's two builders of record batches (`kind`), of nobody's transaction unless it is said."""
    plain = {
        "magic": 2,
        "compression_type": 0,
        "is_transactional": 0,
        "producer_id": -1,
        "producer_epoch": -1,
        "base_sequence": -1,
        "batch_size": 10_000,
    }
    return kind(**plain | but)


def recs(*offsets: int) -> list[Any]:
    """Of one byte each."""
    return [Rec(offset) for offset in offsets]


def sized(first: int, *sizes: int) -> list[Any]:
    """From the offset `first` on, of so many bytes each."""
    return [Rec(offset, b"" if size else None, bytes(size)) for offset, size in enumerate(sizes, first)]
