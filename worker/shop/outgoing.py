"""What is to be sent, and when: the one value that sources of events hand to the publisher."""

from typing import NamedTuple


class Outgoing(NamedTuple):
    """One record. `due_s` is its scheduled send in seconds after the start, or None: as soon as there is room."""

    due_s: float | None
    key: bytes | None
    value: bytes | None
