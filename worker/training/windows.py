"""The window of every event, offline: a source through the worker's own fold, kept in a folder for the next run.

Owns the cache's files. The windows are those the stream worker would hold after each event, cut off behind their rows
(event ids say nothing to a model). Knows neither labels nor models.
"""

import gc
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker import facts, window
from worker.alone import alone
from worker.errors import IntentError
from worker.events import KINDS, Event
from worker.scoring.batch import SESSION_PAUSE_MS
from worker.shop.source import Source
from worker.training.labels import Events

LAYOUT: Final = 5
"""Of the cache; grows when what is kept, or what becomes a fact, changes."""

_COLUMNS: Final = ("visitor", "session", "time_ms", "kind", "instant", "purchase")
_CONTENT: Final = "content.bin"
_COMPLETE: Final = "complete"
_FLAGS: Final = ("instant", "purchase")


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows behind one another in one file, mapped rather than read: the system keeps what is in use."""

    content: NDArray[np.uint8]
    ends: NDArray[np.int64]  # [n]

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, places: NDArray[np.int64]) -> list[bytes]:
        """The windows after the given events, in the order given."""
        ends = self.ends[places]
        starts = np.where(places > 0, self.ends[places - 1], 0)
        return [self.content[start:end].tobytes() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def fold_all(events: Iterator[Event]) -> Iterator[tuple[Event, bytes]]:
    """Each event, by time, with its user's window after it. One that does not fold (duplicate, late) is left out."""
    windows: dict[str, bytes] = {}
    rules = window.Rules()
    for event in events:
        folded = window.fold(windows.get(event.user_id), facts.of(event), rules=rules)
        if folded.outcome is window.Outcome.FOLDED:
            windows[event.user_id] = folded.window
            yield event, folded.window


def build(source: Source, scratch: Path, *, say: Callable[[str], None] = lambda _: None) -> tuple[Events, Windows]:
    """Every event of the source and its window: from `scratch` if a former run left them there, else made (20 s).

    Of several runs at once one makes them and the others wait. `say` hears what of the source became no event, if
    anything. Raises `IntentError` for a cache that is damaged.
    """
    folder = scratch / f"windows-{key(source)}"
    if not (folder / _COMPLETE).exists():
        _make_once(source, folder)
    try:
        losses = (folder / _COMPLETE).read_text().partition("\n")[2]
        columns = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _COLUMNS}
        ends = np.load(folder / "ends.npy", allow_pickle=False)
        mapped = np.memmap(folder / _CONTENT, np.uint8, "r", shape=(int(ends[-1]),))
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise IntentError(f"{folder} is damaged ({error}); delete it, and it is made again") from None
    if losses:
        say(losses)
    content = np.asarray(mapped)  # slices of a memmap cost four times as much
    return Events(**columns, splits=source.splits), Windows(content, ends)


def key(source: Source) -> str:
    """Of whatever is made of the windows and kept: it changes with the data, the fold's layout, the event types."""
    parts = [LAYOUT, window.VERSION, list(KINDS), source.key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


class _Unnamed:
    """Numbers the sessions of events that name none: a pause opens one, as it does in a window's rows."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}  # user -> (time of the newest event, the session's number)

    def of(self, event: Event) -> int:
        """Of the user's events without a session's name, in stream order."""
        newest_ms, number = self._last.get(event.user_id, (event.time_ms, 0))
        number += event.time_ms - newest_ms > SESSION_PAUSE_MS
        self._last[event.user_id] = max(newest_ms, event.time_ms), number
        return number


def _make_once(source: Source, folder: Path) -> None:
    """By whichever of several processes comes first; the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "lock"):
        if (folder / _COMPLETE).exists():
            return
        try:
            _make(source, folder)
        except OSError as error:
            raise IntentError(f"{folder} cannot be written ({error.strerror}); make room there") from None


def _make(source: Source, folder: Path) -> None:
    visitors: dict[str, int] = {}
    sessions: dict[tuple[str, str | int], int] = {}
    unnamed = _Unnamed()
    kinds = {name: number for number, name in enumerate(KINDS)}
    columns = {name: array("b" if name in _FLAGS else "q") for name in _COLUMNS}
    add_visitor, add_session, add_time, add_kind, add_instant, add_purchase = (
        column.append for column in columns.values()
    )
    ends = array("q")
    end, rows_at, row_bytes = 0, window.ROWS_AT, window.ROW.size
    with _collector_off(), (folder / _CONTENT).open("wb", buffering=1 << 20) as content:
        for event, encoded in fold_all(source.events()):
            user = event.user_id
            add_visitor(visitors.setdefault(user, len(visitors)))
            session = unnamed.of(event) if event.session_id is None else event.session_id
            add_session(sessions.setdefault((user, session), len(sessions)))
            add_time(event.time_ms)
            add_kind(kinds.get(event.type, 0))
            add_instant(source.scored(event))
            add_purchase(event.type == "purchase")
            size = rows_at + encoded[2] * row_bytes
            content.write(encoded[:size])
            end += size
            ends.append(end)
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", np.frombuffer(column, np.bool_ if name in _FLAGS else np.int64))
    np.save(folder / "ends.npy", np.frombuffer(ends, np.int64))
    if not ends:
        raise IntentError(
            f"{source.name} has no event: {source.losses() or 'it has no rows, or its mapping leaves them all out'}"
        )
    os.sync()  # before the file that says so: a power cut must not leave it beside half of the others
    (folder / _COMPLETE).write_text(f"{len(ends)} windows\n{source.losses()}")


@contextmanager
def _collector_off() -> Iterator[None]:
    """A million events make no cycles, and the collector would walk what is kept of them again and again."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
