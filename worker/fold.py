"""A batch: some records of one partition, folded into their users' windows. Pure.

Owns how much a batch may hold, each event's fate, what a batch changes, and which users a sweep removes. Knows no order
of effects, no model, no clock, and neither Kafka nor RocksDB.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

from msgspec import Struct

from worker import deadletter, events, facts, window
from worker.errors import Fatal, Invalid
from worker.scores import Headers
from worker.watermark import Watermark

Mode = Literal["every", "latest"]
LATE: Final = "late"


class Record(Protocol):
    """One source record, as a consumer hands it out."""

    @property
    def offset(self) -> int:
        """In its partition."""

    @property
    def timestamp(self) -> int:
        """The record's own, UTC ms."""

    @property
    def key(self) -> bytes | None:
        """Raw."""

    @property
    def value(self) -> bytes | None:
        """Raw."""

    @property
    def headers(self) -> Headers:
        """Raw."""


BATCH_BYTES: Final = 8 << 20
"""Of keys, values and headers in one batch, but for a single record that is larger. Two thousand records of a megabyte,
all dead letters perhaps, would not be sent within a transaction's time-out, and so never.
"""

_HEADER_BYTES: Final = 128
"""Of memory, beside its name and content: 66 for an empty one, 152 for one of two letters each. On the wire a header
may be two bytes, and packed hardly any: 3.5 kB bring 400,000 of them, 26 MB that would else count as nothing.
"""


def sizes(records: Iterable[Record]) -> list[int]:
    """What each counts towards `BATCH_BYTES`: its key, value and headers, with what a header takes in memory."""
    return [
        len(record.key or b"") + len(record.value or b"") + (_headers_size(record.headers) if record.headers else 0)
        for record in records
    ]


def _headers_size(headers: Headers) -> int:
    return sum(_HEADER_BYTES + len(name) + len(content or b"") for name, content in headers)


class Unread(Struct, frozen=True):
    """A record of a batch that could not be read: where it lies is all that is known of it, and why."""

    offset: int
    timestamp: int
    """The newest of its batch."""
    batch_bytes: int
    """What the whole batch takes where it lies."""
    why: Invalid
    key: bytes | None = None
    value: bytes | None = None

    @property
    def headers(self) -> Headers:
        """For the letter: it does not hold the record."""
        return [(deadletter.CUT, b"%d" % self.batch_bytes)]


class Updated(Struct, frozen=True, gc=False):
    """An event that folded, and the window right after it."""

    record: Record
    event: events.Event
    window: bytes


class Rejected(NamedTuple):
    """A record for the dead-letter topic."""

    record: Record
    stage: str
    reason: str
    message: str


@dataclass(slots=True)
class Batch:
    """Everything that one transaction makes visible, and what it leaves behind."""

    updated: list[Updated] = field(default_factory=list)
    """To be scored, in offset order."""
    changed: dict[bytes, bytes | None] = field(default_factory=dict)
    """User key to new window, `None` for a user who was erased or has expired."""
    latest: dict[bytes, int | None] = field(default_factory=dict)
    """User key to the place in `updated` of the newest score, `None` for a user who was erased or has expired."""
    rejected: list[Rejected] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    watermark: Watermark = field(default_factory=Watermark)
    timestamps: list[int] = field(default_factory=list)
    """The source records' own, in ms."""


def fold(
    records: Sequence[Record],
    *,
    windows: Callable[[bytes], bytes | None],
    start: Watermark,
    rules: window.Rules,
    mode: Mode,
) -> Batch:
    """Records of one partition, in offset order and all above `start`, to a batch. Pure.

    Every record gets one fate; nothing but `Fatal` (a damaged window) is raised.
    """
    if records[0].offset <= start.offset:
        raise Fatal(f"offset {records[0].offset} was read again though {start.offset} is done")
    batch = Batch(timestamps=[record.timestamp for record in records])
    changed, latest, updated = batch.changed, batch.latest, batch.updated
    dead = erased = duplicate = late = 0
    newest_ms = start.newest_ms
    for record in records:
        key = record.key
        try:
            event = events.decode(record.value, key=key, timestamp_ms=record.timestamp)
        except Invalid as error:
            why = record.why if isinstance(record, Unread) else error
            batch.rejected.append(Rejected(record, "decode", why.reason, str(why)))
            dead += 1
            continue
        assert key is not None  # it is the event's `user_id`
        fact = facts.of(event)
        newest_ms = max(newest_ms, fact.time_ms)
        if event.type == events.ERASE:
            changed[key] = latest[key] = None
            erased += 1
            continue
        before = changed[key] if key in changed else windows(key)
        folded = window.fold(before, fact, rules=rules, clock_ms=newest_ms)
        if folded.outcome is window.Outcome.FOLDED:
            changed[key] = folded.window
            latest[key] = len(updated)
            updated.append(Updated(record, event, folded.window))
        elif folded.outcome is window.Outcome.DUPLICATE:
            duplicate += 1
        else:
            behind_s, allowed_s = (window.newest_ms(folded.window) - fact.time_ms) / 1000, rules.max_lateness_ms / 1000
            message = f"event time is {behind_s:.0f} s before the user's newest; {allowed_s:.0f} s are allowed"
            batch.rejected.append(Rejected(record, "fold", LATE, message))
            late += 1
    batch.fates = +Counter(dead=dead, erased=erased, duplicate=duplicate, late=late)
    _coalesce(batch, mode)
    batch.watermark = start._replace(offset=records[-1].offset, newest_ms=newest_ms)
    return batch


def sweep(
    batch: Batch,
    stored: Iterable[tuple[bytes, bytes]],
    *,
    windows: Callable[[bytes], bytes | None],
    rules: window.Rules,
) -> None:
    """Remove those of the stored users who have expired by the batch's event time.

    Changes no outcome: `window.fold` starts afresh anyway when such a user comes back; this frees the space of those
    who do not.
    """
    for key, _ in stored:
        if key in batch.changed:
            continue
        current = windows(key)  # a later batch than the stored one may have changed it
        if current is not None and window.expired(current, clock_ms=batch.watermark.newest_ms, rules=rules):
            batch.changed[key] = batch.latest[key] = None


def _coalesce(batch: Batch, mode: Mode) -> None:
    """In mode `latest` only the updates that no later one of the same user replaced keep their place."""
    total = len(batch.updated)
    if mode == "latest":
        newest = {update.event.user_id: update for update in batch.updated}
        batch.updated[:] = [update for update in batch.updated if newest[update.event.user_id] is update]
        places = {update.event.user_id.encode(): place for place, update in enumerate(batch.updated)}
        for key, place in batch.latest.items():
            if place is not None:
                batch.latest[key] = places[key]
    batch.fates["scored"] = len(batch.updated)
    batch.fates["coalesced"] = total - len(batch.updated)
