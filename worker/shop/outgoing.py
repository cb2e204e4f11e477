"""What is to be sent, and when: the value that sources of events hand to the publisher, and real events as such."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from worker.events import Event, encode


class Outgoing(NamedTuple):
    """One record. `due_s` is its scheduled send in seconds after the start, or None: as soon as there is room."""

    due_s: float | None
    key: bytes | None
    value: bytes | None


def played(events: Iterable[Event], *, speed: float | None) -> Iterator[Outgoing]:
    """Recorded events in their order, `speed` times as fast as they happened, or without a schedule for None.

    The first is due at once. An event before its predecessor is due with it.
    """
    first_ms = None
    due_s = 0.0
    for event in events:
        if first_ms is None:
            first_ms = event.time_ms
        if speed is not None:
            due_s = max(due_s, (event.time_ms - first_ms) / 1000 / speed)
        yield Outgoing(None if speed is None else due_s, event.user_id.encode(), encode(event))
