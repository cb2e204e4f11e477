"""Any shop's events from a CSV or Parquet table, by a mapping. Knows neither Kafka nor the window.

Every row becomes part of an event, is left out because the mapping says so, or is rejected with a reason: the counts
add up to the rows. The mapped columns are held in memory, as Arrow has them. A purchase reported twice under one
transaction counts once, its first valid report; the repeats are page views. A URL is cut to its path.
"""

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worker.errors import IntentError, Invalid, SettingError
from worker.events import KINDS, MAX_USER_BYTES, Context, Event, Item
from worker.shop import mapping as mappings
from worker.shop.columns import TEXT, Rejects, blanked, listed, read, says, text, times
from worker.shop.grouping import Rows, grouped
from worker.shop.mapping import Mapping
from worker.shop.source import Splits

_ROWS = 16_384  # in memory at a time as Python values
_CONTEXT: Final = Context.__struct_fields__
_ITEM: Final = Item.__struct_fields__
_MAX_ITEMS = 50
_NO_TRANSACTION: Final = frozenset({"(not set)", "(none)"})
"""What Google Analytics writes where there is no transaction."""


class _Batch(NamedTuple):
    """Some events' rows as Python values."""

    rows: list[range]  # of each event, in the columns
    columns: dict[str, list[Any]]  # by field
    ids: list[list[Any]]  # each column that an event's id is made of


class Table:
    """A file and its mapping. Opening it reads the columns, times them and sorts them.

    Raises `IntentError` where the file, a column or every row is unusable, `SettingError` for a file that is not there
    and for a mapping that is none.
    """

    def __init__(self, path: Path, mapping: Path) -> None:
        self.path = path
        self.files = [path, mapping]
        self.mapping: Mapping = mappings.load(mapping)
        self.rejects = Rejects()
        columns = self.mapping.columns
        content, numbers = read(path, columns.used, self.rejects)
        if markers := self.mapping.missing.values:
            for at, name in enumerate(content.column_names):
                if name not in {columns.event_time, columns.type}:
                    content = content.set_column(at, name, blanked(content[name], markers))
        self.rows = len(content) + self.rejects.total
        time_ms = times(content[columns.event_time], self.mapping.time, self.rejects, numbers)
        order = np.flatnonzero(time_ms >= 0)
        if not len(order):
            why = f": {self.rejects}" if self.rejects.total else ""
            raise IntentError(f"{path} holds no usable row{why}")
        order = order[np.argsort(time_ms[order], kind="stable")]
        order, starts = grouped(order, content, columns, time_ms, numbers, self.rejects)
        self._row = numbers[order]
        self._content = content.take(pa.array(order))
        self._starts = np.append(starts, len(order))  # of each event's rows
        self._times = time_ms[order[starts]]
        self._kinds = self._types()
        for repeat in self._repeated_purchases():
            self._kinds[repeat] = "page_view"
        stat = path.stat()
        self.key = [stat.st_size, stat.st_mtime_ns, hashlib.sha256(mapping.read_bytes()).hexdigest()]

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def about(self) -> str:
        """Of the file alone: who runs the shop knows the rest."""
        splits = self.splits
        return (
            f"`{self.path.name}`, {self.rows:,} rows, {self._day(self._times[0])} to {self._day(self._times[-1])}.\n\n"
            f"Split by time, each instant's horizon inside its slice: validation from {self._day(splits.validation)}, "
            f"test from {self._day(splits.test)} ({self._zone}).\n7 d: trained until two weeks before validation "
            "begins, validated from the week before it on\n(visitors held out of that week's training)."
        )

    @property
    def splits(self) -> Splits:
        """As the mapping has them: dates, or shares of the time."""
        wanted = self.mapping.splits
        start = int(self._times[0]) if wanted.start is None else self._moment(wanted.start)
        end = int(self._times[-1]) + 1 if wanted.end is None else self._moment(wanted.end)
        borders = [
            start + round((end - start) * at) if isinstance(at, float) else self._moment(at)
            for at in (wanted.validation, wanted.test)
        ]
        if not start < borders[0] < borders[1] < end:
            raise SettingError(
                f"the mapping's `splits` are not in order: start, validation, test, end; {self.path} has events from "
                f"{self._day(self._times[0])} to {self._day(self._times[-1])} ({self._zone})"
            )
        return Splits(start=start, validation=borders[0], test=borders[1], end=end)

    def __len__(self) -> int:
        return len(self._times)

    def count(self, from_ms: int | None = None, to_ms: int | None = None) -> int:
        """How many events lie in [from, to), rejected ones included."""
        first, end = self._bounds(from_ms, to_ms)
        return end - first

    def events(self, from_ms: int | None = None, to_ms: int | None = None) -> Iterator[Event]:
        """The events with from <= time < to (UTC ms), by time, then as in the file. About 60,000 a second.

        `rejects` tells afterwards what was not one.
        """
        first, end = self._bounds(from_ms, to_ms)
        for low in range(first, end, _ROWS):
            numbers = np.arange(low, min(low + _ROWS, end))
            batch = self._batch(numbers)
            for place, number in enumerate(numbers.tolist()):
                row, rows = int(self._row[self._starts[number]]), len(batch.rows[place])
                if self._kinds[number] == "":
                    self.rejects.leave_out(row, rows=rows)
                    continue
                try:
                    event = self._event(number, batch, place)
                except Invalid as error:
                    self.rejects.add(error.reason, row, str(error), rows=rows)
                else:
                    yield event

    def account(self, from_ms: int | None = None, to_ms: int | None = None) -> dict[str, int]:
        """What became of the rows once the events of [from, to) were read: `rows` is the sum of the others."""
        first, end = self._bounds(from_ms, to_ms)
        outside = int(self._starts[-1] - (self._starts[end] - self._starts[first]))
        left_out, rejected = self.rejects.left_out, self.rejects.total
        used = self.rows - left_out - rejected - outside
        return {"rows": self.rows, "in_events": used, "left_out": left_out, "rejected": rejected, "outside": outside}

    def names(self, field: str) -> list[str]:
        """The values of the column that is mapped to a text field of `events.Context`, sorted."""
        column = self.mapping.columns.named.get(field)
        values = [] if column is None else listed(pc.unique(self._content[column]))
        return sorted({name for value in values if (name := text(value)) is not None})

    def scored(self, event: Event) -> bool:
        """Not on one of `pages.confirmation`."""
        return event.page is None or not event.page.startswith(self.mapping.pages.confirmation or ("\0",))

    def losses(self) -> str:
        """The rejected rows, by reason."""
        return str(self.rejects) if self.rejects.total else ""

    def time(self, text: str) -> int:
        """RFC 3339, or a date: midnight in the mapping's zone. UTC ms. `ValueError` with what is accepted."""
        try:
            found = dt.datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a time; give a date or RFC 3339 (2024-05-01T00:00:00Z)") from None
        return self._moment(found)

    def _moment(self, at: dt.date | dt.datetime) -> int:
        if not isinstance(at, dt.datetime):
            at = dt.datetime(at.year, at.month, at.day)  # noqa: DTZ001 - the zone comes next
        if at.tzinfo is None:
            at = at.replace(tzinfo=self._zone)
        return round(at.timestamp() * 1000)

    @property
    def _zone(self) -> ZoneInfo:
        """Where the shop's day begins: a date is told in the zone that the mapping's own dates are read in."""
        return ZoneInfo(self.mapping.time.zone or "UTC")

    def _day(self, time_ms: int) -> str:
        return dt.datetime.fromtimestamp(int(time_ms) / 1000, self._zone).date().isoformat()

    def _bounds(self, from_ms: int | None, to_ms: int | None) -> tuple[int, int]:
        first = 0 if from_ms is None else int(np.searchsorted(self._times, from_ms))
        end = len(self) if to_ms is None else int(np.searchsorted(self._times, to_ms))
        return first, max(first, end)

    def _types(self) -> list[str | None]:
        """[events] our names; "" leaves it out, None is none that the mapping knows."""
        column = self._content[self.mapping.columns.type].take(pa.array(self._starts[:-1])).cast(TEXT)
        known = {kind: kind for kind in KINDS} | self.mapping.types
        names = column.to_pylist()
        table = {name: known.get(name or "", self.mapping.defaults.type) for name in set(names)}
        return [table[name] for name in names]

    def _repeated_purchases(self) -> list[int]:
        """Events that report a transaction which a valid one before them has reported.

        Of the whole table, so that an event is the same whichever range it is read in. Only transactions with several
        reports are looked at closely.
        """
        column = self.mapping.columns.transaction_id
        if column is None:
            return []
        places = [number for number, kind in enumerate(self._kinds) if kind == "purchase"]
        told = listed(self._content[column].take(pa.array(self._starts[:-1][places], pa.int64())))
        transactions = [_transaction(value) for value in told]
        reports = Counter(transactions)
        several = {
            number: transaction
            for number, transaction in zip(places, transactions, strict=True)
            if transaction is not None and reports[transaction] > 1
        }
        valid = self._valid(list(several))
        seen: set[str] = set()
        repeats = []
        for number, transaction in several.items():
            if transaction in seen:
                repeats.append(number)
            elif number in valid:
                seen.add(transaction)
        return repeats

    def _valid(self, numbers: Sequence[int]) -> set[int]:
        """Those of these events that will not be rejected."""
        found = set()
        for low in range(0, len(numbers), _ROWS):
            part = numbers[low : low + _ROWS]
            batch = self._batch(np.array(part))
            for place, number in enumerate(part):
                try:
                    self._event(number, batch, place)
                except Invalid:
                    continue
                found.add(number)
        return found

    def _batch(self, numbers: Rows) -> _Batch:
        """These events, at least one."""
        starts = self._starts[numbers]
        ends = np.cumsum(self._starts[numbers + 1] - starts)  # in the batch
        begins = np.append(0, ends[:-1])
        part = self._content.take(pa.array(np.arange(ends[-1]) + np.repeat(starts - begins, ends - begins)))
        names = {"user_id": self.mapping.columns.user_id} | self.mapping.columns.named
        return _Batch(
            rows=[range(start, stop) for start, stop in pairwise([0, *ends.tolist()])],
            columns={field: listed(part[column]) for field, column in names.items()},
            ids=[listed(part[column]) for column in self.mapping.columns.ids],
        )

    def _event(self, number: int, batch: _Batch, at: int) -> Event:
        """The event at this place of a batch. Raises `Invalid`."""
        rows, columns = batch.rows[at], batch.columns
        first, kind, place = rows[0], self._kinds[number], int(self._starts[number])
        if kind is None:
            (name,) = listed(self._content[self.mapping.columns.type].slice(place, 1))
            raise Invalid("type", f"the type {name!r} is none of ours; map it in [types]")
        told = {field: column[first] for field, column in columns.items() if says(column[first])}
        user = text(told.get("user_id")) or ""
        if not 1 <= len(user.encode()) <= MAX_USER_BYTES:
            raise Invalid("user", f"a user's id has 1 to {MAX_USER_BYTES} bytes, not {len(user.encode())}")
        try:
            parts = [text(column[first]) or "" for column in batch.ids]
            event_id = "-".join(parts)
            items = [self._item(columns, row) for row in rows]
            fields = {
                "event_id": event_id if any(parts) else f"{self.path.stem}-{self._row[place]}",
                "user_id": user,
                "event_time": int(self._times[number]),
                "type": kind,
                "session_id": text(told.get("session_id")),
                "items": list({item["item_id"]: item for item in items if item}.values())[:_MAX_ITEMS],
                "value": self._amount("value", text(told.get("value"))),
                "currency": text(told.get("currency")) or (self.mapping.money.currency if "value" in told else None),
                "search_term": text(told.get("search_term")),
                "page": _path(told.get("page")),
                "context": {name: _context(name, told[name]) for name in _CONTEXT if name in told} or None,
            }
            return msgspec.convert({name: value for name, value in fields.items() if value is not None}, Event)
        except (msgspec.ValidationError, ValueError) as error:
            raise Invalid("bounds", str(error)) from None

    def _item(self, columns: dict[str, list[Any]], at: int) -> dict[str, Any] | None:
        """What a row says of an item; None where it names none."""
        item: dict[str, Any] = {
            name: said for name in _ITEM if (column := columns.get(name)) and (said := text(column[at])) is not None
        }
        if "item_id" not in item:
            return None
        if "price" in item:
            item["price"] = self._amount("price", item["price"])
        if "quantity" in item:
            item["quantity"] = _whole("quantity", item["quantity"])
        return item

    def _amount(self, field: str, told: str | None) -> float | None:
        """Raises `ValueError` for what is no number."""
        try:
            return None if told is None else float(told) * self.mapping.money.scale
        except ValueError:
            raise ValueError(f"{field} is {told!r}, which is no number; give one in digits, with a point") from None


def _transaction(value: Any) -> str | None:
    told = text(value)
    return None if told in _NO_TRANSACTION else told


def _path(value: Any) -> str | None:
    """A path as it is; of a URL its path. Raises `ValueError` for a URL that is none."""
    page = text(value) or ""
    try:
        return (urlsplit(page).path or "/" if "://" in page else page) or None
    except ValueError as error:
        raise ValueError(f"page is {page!r}, which is no URL: {error}") from None


def _context(name: str, value: Any) -> str | int | None:
    told = text(value)
    return _whole(name, told) if name == "visit_number" and told is not None else told


def _whole(field: str, told: str) -> int:
    """A fraction is cut off. Raises `ValueError` for what is no number, and for infinity."""
    try:
        return int(float(told))
    except (ValueError, OverflowError):
        raise ValueError(f"{field} is {told!r}, which is no whole number; give one in digits") from None
