"""One user's events to a window and the lines that people read: what happened when, in the window's order.

Owns where the events come from: JSON lines in the wire's format, or a visitor of the sample. The fold is the worker's
own. Knows no model.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from worker import facts, window
from worker.errors import IntentError, Invalid
from worker.events import ERASE, MAX_TIME_MS, Event, decode
from worker.scores import rfc3339
from worker.scoring.batch import Batch
from worker.scoring.encode import CONTEXT

_SHOWN: Final = 48  # characters of a name or a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One event of a window."""

    event_id: str
    time: str  # RFC 3339
    kind: str
    item: str | None
    page: str | None
    session: str | None
    opens: bool  # whether it opens a session, as the model sees it: by name, or without one after a pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A user's window, and its events, oldest first."""

    user_id: str
    window: bytes
    steps: tuple[Step, ...]
    context: dict[str, str]  # by `encode.COLUMNS`: what is known of the newest event's session, and of the event
    dropped: int  # duplicates and late ones


def read(lines: Iterable[bytes], *, source: str, user: str | None) -> list[Event]:
    """Events in JSON lines, as they are in the events topic, of one user. Blank lines count for nothing.

    Without `user` there may be one only. Raises `IntentError`, one sentence that names the line.
    """
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name = orjson.loads(line)
            key = str(name["user_id"]).encode() if isinstance(name, dict) and "user_id" in name else b""
            event = decode(line, key=key, timestamp_ms=MAX_TIME_MS)
        except (Invalid, json.JSONDecodeError) as error:
            raise IntentError(f"line {number} of {source} is no event: {error}") from None
        if user in {None, event.user_id}:
            events.append(event)
    users = {event.user_id for event in events}
    if len(users) > 1:
        some = ", ".join(map(repr, sorted(users)[:3]))
        raise IntentError(f"{source} has events of {len(users)} users ({some}, …); name one with --visitor")
    if not events:
        raise IntentError(f"{source} has no event" + (f" of the user {user!r}" if user else ""))
    return events


def tell(events: Iterable[Event]) -> Story:
    """Folds one user's events, in the order in which they came; `user.erase` starts anew.

    Raises `IntentError` where nothing is left.
    """
    rules = window.Rules()
    encoded: bytes | None = None
    known: dict[int, Event] = {}
    dropped, user = 0, ""
    for event in events:
        user = event.user_id
        if event.type == ERASE:
            encoded = None
            continue
        fact = facts.of(event)
        folded = window.fold(encoded, fact, rules=rules)
        encoded = folded.window
        if folded.outcome is window.Outcome.FOLDED:
            known[fact.id] = event  # an id that was dropped, erased or long ago may come again, and is another event
        else:
            dropped += 1
    if encoded is None:
        raise IntentError("no event is left to explain: the user was erased")
    rows = window.view(encoded).rows
    opens = Batch.of([encoded]).rows.opens.tolist()
    steps = tuple(_step(known[row.id], opens=first) for row, first in zip(rows, opens, strict=True))
    context = _session(encoded, known.values()) | _newest(known[rows[-1].id])
    return Story(user_id=user, window=encoded, steps=steps, context=context, dropped=dropped)


def _session(encoded: bytes, events: Collection[Event]) -> dict[str, str]:
    """The window keeps hashes; the words are those of an event that has them."""
    held = encoded[window.HEADER.size : window.ROWS_AT]
    for event in events:
        if event.context is not None and facts.of(event).context == held:
            return {name: str(getattr(event.context, name) or "") for name in CONTEXT}
    return dict.fromkeys(CONTEXT, "")


def _newest(event: Event) -> dict[str, str]:
    """The words behind `encode.NEWEST`, as `facts.of` takes them."""
    category = event.items[0].item_category if event.items else None
    return {"newest_page": facts.page_of(event) or "", "newest_category": category or ""}


def _step(event: Event, *, opens: bool) -> Step:
    item = event.items[0] if event.items else None
    return Step(
        event_id=event.event_id,
        time=rfc3339(event.time_ms),
        kind=event.type,
        item=None if item is None else (item.item_name or item.item_id)[:_SHOWN],
        page=(event.page or event.search_term or "")[:_SHOWN] or None,
        session=event.session_id,
        opens=opens,
    )


def document(step: Step) -> dict[str, str | None]:
    """For programs."""
    return {name: getattr(step, name) for name in ("event_id", "time", "kind", "item", "page", "session")}
