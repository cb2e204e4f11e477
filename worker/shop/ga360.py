"""The GA360 sample as a stream of events: reads its two parquet tables and names its hits as a live shop would.

Knows neither Kafka nor the window, and nothing of labels. The tables' own oddities are settled here, so that every
hit is one valid event: repeated purchase hits are page views, a quantity that no shop sells is left out, `(not set)`
is nothing. Every event carries the context of its session's start, as web trackers send it: whichever of a session's
hits is lost or late, the rest still tell where the visitor came from.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker.errors import IntentError, SettingError
from worker.events import Context, Event, Item
from worker.shop.source import Splits

ORDER_COMPLETED: Final = "/ordercompleted.html"
"""The page after an order. It is reached only by buying, so it is shown to a model as history but never scored."""

DAY_STARTS: Final = dt.timedelta(hours=7)
"""The shop's day begins at midnight Pacific daylight time, 07:00 UTC."""

ABOUT: Final = """\
Google Merchandise Store, the public obfuscated Google Analytics 360 sample, 2016-08-01 to 2016-10-15: one shop,
most buyers in the United States. No licence text came with it.

Split by time, each instant's horizon inside its slice. 30 min and 24 h: trained on Aug 1 - Sep 23, validated on Sep
24 - 30, tested on Oct 1 - 15. 7 d: trained on Aug 1 - Sep 9, validated on Sep 17 - 23 (visitors held out of that
week's training), tested on Oct 1 - 8. Instants whose label looks into 2016-08-03 are left out: no purchase was
recorded on that day, though checkouts went on. Events on the order-completed page are never scored."""
"""For model cards."""

HITS: Final = (
    "session_id",
    "visitor_id",
    "hit_number",
    "timestamp_ms",
    "type",
    "action_type",
    "checkout_step",
    "page_path",
    "search_keyword",
    "event_action",
    "impressions",
    "products",
    "transaction_id",
    "transaction_revenue",
)
"""The columns of `hits.parquet` that are read."""

_CONTEXT: Final = {
    "channel": "channel",
    "source": "source",
    "medium": "medium",
    "browser": "browser",
    "os": "operating_system",
    "device": "device_category",
    "country": "country",
    "visit_number": "visit_number",
}
"""A context's fields and their columns in `sessions.parquet`."""

SESSIONS: Final = ("session_id", "start_ms", *_CONTEXT.values())
"""The columns of `sessions.parquet` that are read. The totals are known only at a session's end: they are not."""

_ROWS = 16_384  # in memory at a time: about 10 MB as Python values
_MAX_ITEMS = 50
_MAX_QUANTITY = 1_000_000
_ACTIONS: Final = {"1": "select_item", "2": "view_item", "3": "add_to_cart", "4": "remove_from_cart"}
_CHECKOUT: Final = {1: "begin_checkout", 2: "add_payment_info", 3: "review_order"}
_PAGES: Final = (
    ("/asearch", "search"),
    ("/basket", "view_cart"),
    ("/signin", "login"),
    ("/registersuccess", "sign_up"),
)


class Sample:
    """A folder with `hits.parquet` and `sessions.parquet`. Opening it reads their footers and three columns.

    Raises `IntentError` where a table or a column is missing, or the hits have no times or are not in their order; and
    where a table is damaged, which may show only when it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.splits = SPLITS
        self._hits = _open(folder / "hits.parquet", HITS)
        self._sessions = _open(folder / "sessions.parquet", SESSIONS)
        with _reading(folder / "hits.parquet"):
            marks = self._hits.read(["timestamp_ms", "action_type", "transaction_id"])
        self._times: np.ndarray[tuple[int], np.dtype[np.int64]] = marks["timestamp_ms"].to_numpy()
        if self._times.dtype != np.int64:  # floats where one is missing
            raise IntentError(
                f"{folder / 'hits.parquet'}: `timestamp_ms` holds {marks['timestamp_ms'].type}, or gaps; "
                "int64 without gaps is wanted"
            )
        if (np.diff(self._times) < 0).any():
            raise IntentError(f"{folder / 'hits.parquet'}: the hits are not sorted by `timestamp_ms`; sort them first")
        self._purchases = _first_of_each_transaction(marks)
        self._contexts: dict[str, Context] | None = None

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def files(self) -> list[Path]:
        """The folder."""
        return [self.folder]

    @property
    def about(self) -> str:
        """What it is and how it is split."""
        return ABOUT

    @property
    def key(self) -> list[Any]:
        """The two files' sizes and dates."""
        files = [(self.folder / name).stat() for name in ("hits.parquet", "sessions.parquet")]
        return [(file.st_size, file.st_mtime_ns) for file in files]

    def __len__(self) -> int:
        return len(self._times)

    def scored(self, event: Event) -> bool:
        """Not on the order-completed page."""
        return event.page != ORDER_COMPLETED

    def losses(self) -> str:
        """None: each hit is an event."""
        return ""

    def time(self, text: str) -> int:
        """`parse_time`."""
        return parse_time(text)

    def count(self, from_ms: int | None = None, to_ms: int | None = None) -> int:
        """How many events lie in [from, to)."""
        start, end = self._bounds(from_ms, to_ms)
        return end - start

    def events(self, from_ms: int | None = None, to_ms: int | None = None) -> Iterator[Event]:
        """The events with from <= time < to (UTC ms), in stream order. About 200,000 a second; memory does not grow.

        An event is the same whichever range it is read in. `event_id` is `<session_id>-<hit_number>`.
        """
        start, end = self._bounds(from_ms, to_ms)
        contexts = self._session_contexts()
        with _reading(self.folder / "hits.parquet"):
            for first_row, columns in self._batches(start, end):
                for offset, hit in enumerate(zip(*columns, strict=True)):
                    yield _event(*hit, purchase=first_row + offset in self._purchases, contexts=contexts)

    def names(self, field: str) -> list[str]:
        """The values that a text field of the sessions' `events.Context` takes, sorted."""
        values = {getattr(context, field) for context in self._session_contexts().values()}
        return sorted(value for value in values if value)

    def _bounds(self, from_ms: int | None, to_ms: int | None) -> tuple[int, int]:
        start = 0 if from_ms is None else int(np.searchsorted(self._times, from_ms))
        end = len(self) if to_ms is None else int(np.searchsorted(self._times, to_ms))
        return start, max(start, end)

    def _batches(self, start: int, end: int) -> Iterator[tuple[int, list[list[Any]]]]:
        """(number of the first row, the columns of `HITS` as lists) for the rows [start, end), in file order."""
        group_at = 0
        for group in range(self._hits.metadata.num_row_groups):
            group_end = group_at + self._hits.metadata.row_group(group).num_rows
            row = group_at
            if start < group_end and group_at < end:
                for batch in self._hits.iter_batches(_ROWS, row_groups=[group], columns=list(HITS)):
                    low, high = max(start - row, 0), min(end - row, len(batch))
                    if low < high:
                        part = batch.slice(low, high - low)
                        yield row + low, [part[name].to_pylist() for name in HITS]
                    row += len(batch)
            group_at = group_end

    def _session_contexts(self) -> dict[str, Context]:
        """The context of each session. One that spans midnight has two rows: its first counts."""
        if self._contexts is None:
            with _reading(self.folder / "sessions.parquet"):
                rows = self._sessions.read(list(SESSIONS)).sort_by([("start_ms", "descending")])
            columns = [rows[name].to_pylist() for name in ("session_id", *_CONTEXT.values())]
            names = list(_CONTEXT)
            self._contexts = {
                session: Context(**dict(zip(names, values, strict=True)))
                for session, *values in zip(*columns, strict=True)
            }
        return self._contexts


def parse_time(text: str) -> int:
    """RFC 3339, or a date: the start of the shop's day. UTC ms. Raises `ValueError` with what is accepted."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; give a date or RFC 3339 (2016-10-01T07:00:00Z)") from None
    if len(text) <= len("2016-10-01"):
        time = time.replace(tzinfo=dt.UTC) + DAY_STARTS
    elif time.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC; write {text}Z or {text}-07:00")
    return round(time.timestamp() * 1000)


SPLITS: Final = Splits(
    start=parse_time("2016-08-01"),
    validation=parse_time("2016-09-24"),
    test=parse_time("2016-10-01"),
    end=parse_time("2016-10-16"),
    outages=((parse_time("2016-08-03"), parse_time("2016-08-04")),),  # checkouts went on that day
)
"""At the shop's midnights."""


def _open(path: Path, columns: Iterable[str]) -> pq.ParquetFile:
    with _reading(path):
        file = pq.ParquetFile(path)
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise IntentError(f"{path} has no column {missing[0]!r}; the GA360 sample's tables have {', '.join(columns)}")
    return file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise SettingError(f"{path} does not exist; give the folder with hits.parquet and sessions.parquet") from None
    except (OSError, pa.ArrowException) as error:
        raise IntentError(f"{path} cannot be read as parquet: {error}") from None


def _first_of_each_transaction(marks: pa.Table) -> frozenset[int]:
    """Row numbers of the purchases: a shop reports one by several hits, its first counts."""
    actions = np.asarray(marks["action_type"].to_pylist(), dtype=object)
    rows = np.flatnonzero(actions == "6")
    first: dict[str | None, int] = {}
    for row, transaction in zip(rows.tolist(), marks["transaction_id"].take(rows).to_pylist(), strict=True):
        first.setdefault(transaction, row)
    first.pop(None, None)
    return frozenset(first.values())


def _event(  # one argument per column of HITS, in its order: a carrier would cost more than the event
    session: str,
    visitor: str,
    number: int,
    time_ms: int,
    hit_type: str,
    action: str,
    checkout_step: int | None,
    page: str | None,
    keyword: str | None,
    event_action: str | None,
    impressions: int | None,
    products: Sequence[dict[str, Any]] | None,
    transaction: str | None,  # noqa: ARG001  # its place in the row; what it says is in `purchase`
    revenue: float | None,
    *,
    purchase: bool,
    contexts: dict[str, Context],
) -> Event:
    path = page or ""
    if purchase:
        kind = "purchase"
    elif action in _ACTIONS:
        kind = _ACTIONS[action]
    elif action == "5":
        kind = _CHECKOUT.get(checkout_step or 1, "begin_checkout")
    elif event_action == "Promotion Click":
        kind = "select_promotion"
    else:
        kind = _page_kind(path, hit_type, impressions or 0)
    return Event(
        event_id=f"{session}-{number}",
        user_id=visitor,
        event_time=time_ms,
        type=kind,
        session_id=session,
        items=tuple(_item(product) for product in products[:_MAX_ITEMS] if product["sku"]) if products else (),
        value=revenue if purchase else None,
        currency="USD" if purchase and revenue is not None else None,
        search_term=keyword or None,
        page=path[:2048] or None,
        context=contexts.get(session),
    )


def _page_kind(path: str, hit_type: str, impressions: int) -> str:
    for prefix, kind in _PAGES:
        if path.startswith(prefix):
            return kind
    if impressions:
        return "view_item_list"
    return "page_view" if hit_type == "PAGE" else "click"  # a click on the page: no type of ours, kept as `other`


def _item(product: dict[str, Any]) -> Item:
    category, quantity = product["category"], product["quantity"]
    return Item(
        item_id=product["sku"],
        item_name=product["name"] or None,
        item_category=None if not category or category == "(not set)" or category.startswith("${") else category,
        price=product["price"],
        quantity=quantity if quantity is not None and 0 <= quantity <= _MAX_QUANTITY else None,
    )
