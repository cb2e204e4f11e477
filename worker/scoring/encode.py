"""Windows to a model's rows: the vocabulary and the encoder.

One event becomes one position: `FIELDS` indices into one embedding table, whose rows are summed by the model. Frequent
items and pages own a row; the tail shares hashed rows (an item two of them, plus its category and price), so an item
that no training has seen still says something. Knows numpy and the decoded batch, not torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.events import KINDS
from worker.scoring.batch import Batch, Bools, Column, Hashes, Heads, Ints, Rows
from worker.scoring.compiled import compiled
from worker.window import EVENTS

FIELDS: Final = ("kind", "item", "item_second", "category", "page", "price", "gap", "age", "session")
"""The embedding rows of a position, in order."""

CONTEXT: Final = ("channel", "source", "medium", "browser", "os", "device", "country")
"""What is known of the newest event's session, in the window's order."""

NEWEST: Final = {"newest_page": "page", "newest_category": "category"}
"""What the head is told of the newest event by name: a column of `contexts`, and the column of `Rows` it is taken from.
A session's first events say little but where they are, and the BERT alone is slow to find it.
"""

COLUMNS: Final = (*CONTEXT, *NEWEST)
"""Of `contexts`, in order. A bundle has those that its vocabulary knows: all, or the session's alone, the first."""

NOTHING: Final = 0
"""The table's row for an absent item, category, page or price: all zeros, never trained."""

MAX_POSITIONS: Final = 1 + EVENTS
"""A learnt first position and a full window."""

PRICES: Final = 16
TIMES: Final = 24
SESSIONS: Final = 8
"""Current, previous, ... (4) x whether the event opens the session (2)."""

_MIX = 0x9E3779B1  # 2**32 / golden ratio: spreads the second bucket of an item


class Index(NamedTuple):
    """Sorted hashes, and where each share of the 32-bit range begins in them: hashes lie evenly, so few share one."""

    known: Column
    starts: Column  # [2**bits + 1] int32
    shift: int  # 32 - bits

    @classmethod
    def of(cls, known: Hashes) -> "Index":
        """About four shares a hash: most of those that are not known end at an empty one."""
        bits = len(known).bit_length() + 2
        shares = np.arange((1 << bits) + 1, dtype=np.uint64) << np.uint64(32 - bits)
        return cls(known, np.searchsorted(known, shares).astype(np.int32), 32 - bits)


class Table(NamedTuple):
    """What the encoder needs of a vocabulary: where to find hashes, where each field's rows begin."""

    items: Index
    categories: Index
    pages: Index
    item_buckets: int
    page_buckets: int
    kinds: int
    kind: int
    item: int
    item_tail: int
    category: int
    page: int
    page_tail: int
    price: int
    gap: int
    age: int
    session: int


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Which hashes own an embedding row, sorted; how many rows the tails share."""

    items: Hashes
    categories: Hashes
    pages: Hashes
    contexts: Mapping[str, Hashes]  # by column: these are the columns of `contexts`
    item_buckets: int
    page_buckets: int

    @cached_property
    def bases(self) -> dict[str, int]:
        """Where each field's rows begin in the one table. Row 0 is `NOTHING`."""
        sizes = {
            "kind": len(KINDS),
            "item": len(self.items),
            "item_tail": self.item_buckets,
            "category": len(self.categories) + 1,  # the first: any other category
            "page": len(self.pages),
            "page_tail": self.page_buckets,
            "price": PRICES,
            "gap": TIMES + 1,  # the first: no row before
            "age": TIMES,
            "session": SESSIONS,
        }
        starts = np.cumsum([1, *sizes.values()]).tolist()
        return dict(zip([*sizes, "end"], starts, strict=True))

    @cached_property
    def table(self) -> Table:
        """For the encoder."""
        starts = {name: start for name, start in self.bases.items() if name != "end"}
        return Table(
            items=Index.of(self.items),
            categories=Index.of(self.categories),
            pages=Index.of(self.pages),
            item_buckets=self.item_buckets,
            page_buckets=self.page_buckets,
            kinds=len(KINDS),
            **starts,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Of `contexts`: those of `COLUMNS` that this vocabulary knows."""
        return tuple(name for name in COLUMNS if name in self.contexts)

    @cached_property
    def context_tables(self) -> tuple[Index, ...]:
        """In the order of `columns`."""
        return tuple(Index.of(self.contexts[name]) for name in self.columns)

    @property
    def rows(self) -> int:
        """Size of the embedding table."""
        return self.bases["end"]

    def context_sizes(self) -> list[int]:
        """Embedding rows of each of `columns`: 0 for nothing, 1 for any other value."""
        return [len(self.contexts[name]) + 2 for name in self.columns]


def tokens(batch: Batch, vocabulary: Vocabulary, *, forgotten: Bools | None = None) -> NDArray[np.int32]:
    """[N, FIELDS] rows of the embedding table for each row of the batch, in the batch's order.

    The item and page of a `forgotten` row count as never seen: training teaches the tail's rows with it.
    """
    if forgotten is None:
        forgotten = np.zeros(0, np.bool_)
    elif forgotten.shape != (batch.events,):
        raise ValueError(f"`forgotten` has the shape {forgotten.shape}; it must say so of {batch.events} rows")
    columns = np.empty((batch.events, len(FIELDS)), np.int32)
    _tokens(batch.rows, vocabulary.table, forgotten, columns)
    return columns


def packed(batch: Batch, vocabulary: Vocabulary, *, starts: Ints, first: int) -> NDArray[np.int32]:
    """[B + N, FIELDS + 1]: all windows' tokens in one row; window i's begin at `starts[i]`, in any order without gaps.

    A window is a first position and its events, oldest first. The last column is the position's own row, in a table
    that goes on behind the vocabulary's rows: at `first` what stands in a window's first position, then the first
    position, the newest event's, that of the one before it, and so on. Raises `ValueError` for other `starts`.
    """
    lengths = batch.lengths + 1
    order = np.argsort(starts)
    if not np.array_equal(starts[order], np.cumsum(lengths[order]) - lengths[order]):
        raise ValueError("the windows' tokens would overlap, or leave a gap")
    columns = np.empty((len(batch) + batch.events, len(FIELDS) + 1), np.int32)
    _packed(batch.heads, batch.rows, vocabulary.table, starts, first, columns)
    return columns


def contexts(batch: Batch, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """[B, vocabulary.columns] rows of each column's own table."""
    columns = np.empty((len(batch), len(vocabulary.columns)), np.int32)
    _contexts(context_hashes(batch), vocabulary.context_tables, columns)
    return columns


def context_hashes(batch: Batch) -> Hashes:
    """[B, COLUMNS] what each column names, 0 for nothing."""
    newest = [getattr(batch.rows, field)[batch.newest] for field in NEWEST.values()]
    return np.column_stack([batch.heads.context, *newest])


def padded(batch: Batch, encoded: NDArray[np.int32], chosen: Ints) -> NDArray[np.int32]:
    """[len(chosen), L, FIELDS]: the chosen windows' rows, newest first, `NOTHING` behind the shorter ones.

    L is the longest one's length. Newest first, so that a position means the same however much an eviction takes away
    at the other end.
    """
    lengths = batch.lengths[chosen]
    steps = np.arange(int(lengths.max()))
    places = batch.newest[chosen][:, None] - steps  # [b, L]
    grid = encoded[np.maximum(places, 0)]
    grid[steps >= lengths[:, None]] = NOTHING
    return np.asarray(grid)


def learn(batches: Sequence[Batch], *, least: int, item_buckets: int = 64, page_buckets: int = 64) -> Vocabulary:
    """The vocabulary of windows' newest rows: each hash seen at least `least` times owns a row.

    Newest rows only, so that an event counts once however many windows hold it.
    """

    def frequent(columns: Iterator[Hashes]) -> Hashes:
        hashes, counts = np.unique(np.concatenate(list(columns)), return_counts=True)
        return np.asarray(hashes[(counts >= least) & (hashes != 0)], np.uint32)

    named = [context_hashes(batch) for batch in batches]
    return Vocabulary(
        items=frequent(batch.rows.item[batch.newest] for batch in batches),
        categories=frequent(batch.rows.category[batch.newest] for batch in batches),
        pages=frequent(batch.rows.page[batch.newest] for batch in batches),
        contexts={name: frequent(hashes[:, at] for hashes in named) for at, name in enumerate(COLUMNS)},
        item_buckets=item_buckets,
        page_buckets=page_buckets,
    )


@compiled
def _tokens(rows: Rows, table: Table, forgotten: Bools, out: NDArray[np.int32]) -> None:
    """`tokens` into `out`; nothing is forgotten where `forgotten` is empty."""
    for n in range(len(rows.kind)):
        _event(rows, n, table, len(forgotten) > 0 and forgotten[n], out[n])


@compiled
def _packed(heads: Heads, rows: Rows, table: Table, starts: Ints, first: int, out: NDArray[np.int32]) -> None:
    """`packed` into `out`."""
    for i in range(len(starts)):
        at, length, oldest = starts[i], heads.lengths[i], heads.first[i]
        out[at] = NOTHING
        out[at, 0], out[at, -1] = first, first + 1
        for place in range(length):
            _event(rows, oldest + place, table, False, out[at + 1 + place])
            out[at + 1 + place, -1] = first + 1 + length - place


@compiled
def _event(rows: Rows, n: int, table: Table, forget: bool, out: NDArray[np.int32]) -> None:  # noqa: FBT001 - numba
    """Row n's `FIELDS`."""
    item, category, page = np.int64(rows.item[n]), np.int64(rows.category[n]), np.int64(rows.page[n])
    out[0] = table.kind + min(rows.kind[n], table.kinds - 1)
    out[1] = out[2] = out[4] = NOTHING
    if item != 0:
        place = -1 if forget else _find(table.items, item)
        if place >= 0:
            out[1] = table.item + place
        else:
            out[1] = table.item_tail + item % table.item_buckets
            out[2] = table.item_tail + (((item * _MIX) & 0xFFFFFFFF) >> 8) % table.item_buckets
    out[3] = table.category + 1 + _find(table.categories, category) if category != 0 else NOTHING
    if page != 0:
        place = -1 if forget else _find(table.pages, page)
        out[4] = table.page + place if place >= 0 else table.page_tail + page % table.page_buckets
    price = np.int64(rows.price_cents[n])
    # two buckets an octave are one an octave of the square
    out[5] = table.price + _bucket(price * price, 12, PRICES) if price > 0 else NOTHING
    gap = rows.gap_ms[n]
    out[6] = table.gap + 1 + _bucket(gap, 6, TIMES) if gap >= 0 else table.gap
    out[7] = table.age + _bucket(rows.age_ms[n], 6, TIMES)
    out[8] = table.session + 2 * min(rows.sessions_back[n], 3) + rows.opens[n]


@compiled
def _contexts(hashes: Hashes, tables: tuple[Index, ...], out: NDArray[np.int32]) -> None:
    """`contexts`, from the hashes."""
    for at, index in enumerate(tables):
        for i in range(len(hashes)):
            value = np.int64(hashes[i, at])
            out[i, at] = 2 + _find(index, value) if value != 0 else 0  # 1: not known


@compiled
def _find(index: Index, value: np.int64) -> int:
    """The value's place among the known; -1 for one that is not known."""
    share = value >> index.shift
    for place in range(index.starts[share], index.starts[share + 1]):
        if index.known[place] == value:
            return place
    return -1


@compiled
def _bucket(value: np.int64, start: int, buckets: int) -> int:
    """On a scale of a bucket an octave: 0 below 2**(start + 1), never past the last. The value is below 2**53."""
    if value < 2:
        return 0
    octave: Any = (np.float64(value).view(np.int64) >> 52) - 1023  # the exponent of the float is the logarithm, exactly
    bucket: int = min(max(octave - start, 0), buckets - 1)
    return bucket
