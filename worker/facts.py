"""An event as stable integers: what a window stores. Owns the hashing; knows no window and no model.

Facts outlive any model: a bundle maps them to its own vocabulary when it scores, so that a reload or a challenger
reads the same windows. All hashes are XXH3-64 (xxHash specification 0.1.1), cut to the stored width.
"""

import struct
import sys
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from msgspec import Struct, structs
from xxhash import xxh3_64_intdigest

from worker.events import KINDS, Context, Event

MAX_PRICE_CENTS: Final = (1 << 24) - 1
CONTEXT: Final = struct.Struct("<7IH")
"""channel, source, medium, browser, os, device, country (hashes), visit number."""
NO_CONTEXT: Final = bytes(CONTEXT.size)
_TEXTS: Final = 1 << 16
_TEXT_BYTES: Final = 512
"""Of memory that a text takes, at most, to be remembered: 460 characters, or 109 of the widest. With the longest that
an event may have, so many would take 35 to 140 MB, and with pages up to 530.
"""
_CONTEXTS: Final = 1 << 14
_CONTEXT_BYTES: Final = 1024
"""Of a context's parts together, which usually take 400; the longest would be 60 to 230 MB."""

_Key = TypeVar("_Key", bound=Hashable)
_Answer = TypeVar("_Answer")
_KIND = {name: number for number, name in enumerate(KINDS)}


class Facts(Struct, frozen=True, gc=False):
    """One event. Hashes are 32 bits wide, 0 for "none"; `session` is 16 bits wide; `context` is `CONTEXT`, packed."""

    id: int
    time_ms: int
    kind: int
    item: int
    category: int
    page: int
    price_cents: int
    session: int
    context: bytes


class _Remembered(dict[_Key, _Answer], Generic[_Key, _Answer]):
    """The answers to keys of at most `key_bytes` of memory. Forgets all of them where another would exceed `most`.

    A shop repeats its strings: 3.6 -> 1.3 µs an event. Whoever sends what never repeats decides how much that takes.
    """

    def __init__(
        self, ask: Callable[[_Key], _Answer], *, size: Callable[[_Key], int], key_bytes: int, most: int
    ) -> None:
        super().__init__()
        self._ask = ask
        self._size = size
        self._key_bytes = key_bytes
        self._most = most

    def __missing__(self, key: _Key) -> _Answer:
        answer = self._ask(key)
        if self._size(key) <= self._key_bytes:
            if len(self) >= self._most:
                self.clear()
            self[key] = answer
        return answer


def _hash(text: str | None, mask: int) -> int:
    return xxh3_64_intdigest(text.encode()) & mask or 1 if text else 0


_hashes32 = _Remembered[str | None, int](
    lambda text: _hash(text, 0xFFFFFFFF), size=sys.getsizeof, key_bytes=_TEXT_BYTES, most=_TEXTS
)
_hashes16 = _Remembered[str | None, int](
    lambda text: _hash(text, 0xFFFF), size=sys.getsizeof, key_bytes=_TEXT_BYTES, most=_TEXTS
)


def hash32(text: str | None) -> int:
    """The low 32 bits of XXH3-64 over UTF-8; 0 only for nothing (a true 0 becomes 1)."""
    return _hashes32[text]


def page_of(event: Event) -> str | None:
    """Where the event was: its page, else what was searched for, else the first item, whose own page it must have been.

    The last is all that a shop whose events name no pages can tell a head of its newest event.
    """
    return event.page or event.search_term or (event.items[0].item_id if event.items else None)


def of(event: Event) -> Facts:
    """The event's facts. Item, category and price are those of its first item; page is `page_of` the event."""
    item = category = price_cents = 0
    if event.items:
        first = event.items[0]
        item = _hashes32[first.item_id]
        category = _hashes32[first.item_category]
        if first.price:
            price_cents = min(round(first.price * 100), MAX_PRICE_CENTS)
    return Facts(
        xxh3_64_intdigest(event.event_id.encode()),
        event.time_ms,
        _KIND.get(event.type, 0),
        item,
        category,
        _hashes32[page_of(event)],
        price_cents,
        _hashes16[event.session_id],
        NO_CONTEXT if event.context is None else _contexts[event.context],
    )


def _context(context: Context) -> bytes:
    return CONTEXT.pack(
        hash32(context.channel),
        hash32(context.source),
        hash32(context.medium),
        hash32(context.browser),
        hash32(context.os),
        hash32(context.device),
        hash32(context.country),
        min(context.visit_number or 0, 0xFFFF),
    )


_contexts = _Remembered[Context, bytes](
    _context,
    size=lambda context: sum(map(sys.getsizeof, structs.astuple(context))),
    key_bytes=_CONTEXT_BYTES,
    most=_CONTEXTS,
)
