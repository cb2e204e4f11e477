"""Windows to a model's rows: the vocabulary and the encoder. Vectorised; no loop over windows or events.

One event becomes one position: `FIELDS` indices into one embedding table, whose rows are summed by the model. Frequent
items and pages own a row; the tail shares hashed rows (an item two of them, plus its category and price), so an item
that no training has seen still says something. Knows numpy and the decoded batch, not torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.events import KINDS
from worker.scoring.batch import Batch, Bools, Ints
from worker.window import EVENTS

Hashes = NDArray[np.uint32]

FIELDS: Final = ("kind", "item", "item_second", "category", "page", "price", "gap", "age", "session")
"""The embedding rows of a position, in order."""

CONTEXT: Final = ("channel", "source", "medium", "browser", "os", "device", "country")
"""What is known of the newest event's session, in the window's order."""

NOTHING: Final = 0
"""The table's row for an absent item, category, page or price: all zeros, never trained."""

MAX_POSITIONS: Final = 1 + EVENTS
"""A learnt first position and a full window."""

PRICES: Final = 16
TIMES: Final = 24
SESSIONS: Final = 8
"""Current, previous, ... (4) x whether the event opens the session (2)."""

_MIX = np.uint32(0x9E3779B1)  # 2**32 / golden ratio: spreads the second bucket of an item


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Which hashes own an embedding row, sorted; how many rows the tails share."""

    items: Hashes
    categories: Hashes
    pages: Hashes
    contexts: Mapping[str, Hashes]
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

    @property
    def rows(self) -> int:
        """Size of the embedding table."""
        return self.bases["end"]

    def context_sizes(self) -> list[int]:
        """Embedding rows of each context field: 0 for nothing, 1 for any other value."""
        return [len(self.contexts[name]) + 2 for name in CONTEXT]


def tokens(batch: Batch, vocabulary: Vocabulary, *, forgotten: Bools | None = None) -> NDArray[np.int32]:
    """[N, FIELDS] rows of the embedding table for each row of the batch, in the batch's order.

    The item and page of a `forgotten` row count as never seen: training teaches the tail's rows with it.
    """
    base = vocabulary.bases
    row, kind = batch.row, batch.kind
    item = row["item"]
    own, place = _find(vocabulary.items, item)
    if forgotten is not None:
        own &= ~forgotten
    tail = (item != 0) & ~own
    buckets = np.uint32(vocabulary.item_buckets)
    columns = np.empty((len(row), len(FIELDS)), np.int32)
    columns[:, 0] = base["kind"] + np.minimum(kind, len(KINDS) - 1)
    columns[:, 1] = np.where(own, base["item"] + place, np.where(tail, base["item_tail"] + item % buckets, NOTHING))
    columns[:, 2] = np.where(tail, base["item_tail"] + second_bucket(item, buckets), NOTHING)
    known, place = _find(vocabulary.categories, row["category"])
    columns[:, 3] = np.where(row["category"] != 0, base["category"] + np.where(known, place + 1, 0), NOTHING)
    page = row["page"]
    own, place = _find(vocabulary.pages, page)
    if forgotten is not None:
        own &= ~forgotten
    in_tail = base["page_tail"] + page % np.uint32(vocabulary.page_buckets)
    columns[:, 4] = np.where(page != 0, np.where(own, base["page"] + place, in_tail), NOTHING)
    price = batch.price_cents
    columns[:, 5] = np.where(price > 0, base["price"] + logarithm(price, PRICES, per_octave=2, start=6), NOTHING)
    gap = batch.gap_ms
    columns[:, 6] = base["gap"] + np.where(gap >= 0, 1 + time_bucket(np.maximum(gap, 0)), 0)
    columns[:, 7] = base["age"] + time_bucket(batch.age_ms)
    columns[:, 8] = base["session"] + 2 * np.minimum(batch.sessions_back, 3) + batch.opens
    return columns


def contexts(batch: Batch, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """[B, CONTEXT] rows of each context field's own table."""
    hashes = batch.header["context"]
    columns = np.empty(hashes.shape, np.int32)
    for at, name in enumerate(CONTEXT):
        known, place = _find(vocabulary.contexts[name], hashes[:, at])
        columns[:, at] = np.where(hashes[:, at] != 0, np.where(known, place + 2, 1), 0)
    return columns


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


def second_bucket(item: Hashes, buckets: np.uint32) -> Hashes:
    """A tail item's second shared row, as good as independent of the first."""
    return np.asarray(((item * _MIX) >> np.uint32(8)) % buckets, np.uint32)


def time_bucket(milliseconds: Ints) -> Ints:
    """0 for none, then a bucket for each doubling from 128 ms; the last takes all from 6 days on."""
    return logarithm(milliseconds, TIMES, per_octave=1, start=6)


def logarithm(values: Ints, buckets: int, *, per_octave: int, start: int) -> Ints:
    """Bucket of non-negative integers on a logarithmic scale: 0 below 2**(start + 1), never past the last."""
    octaves = np.log2(np.maximum(values, 1)) - start
    return np.clip((octaves * per_octave).astype(np.int64), 0, buckets - 1)


def learn(batches: Sequence[Batch], *, least: int, item_buckets: int = 64, page_buckets: int = 64) -> Vocabulary:
    """The vocabulary of windows' newest rows: each hash seen at least `least` times owns a row.

    Newest rows only, so that an event counts once however many windows hold it.
    """
    newest = [batch.row[batch.newest] for batch in batches]
    headers = [batch.header["context"] for batch in batches]

    def frequent(columns: Sequence[Hashes]) -> Hashes:
        hashes, counts = np.unique(np.concatenate(columns), return_counts=True)
        return np.asarray(hashes[(counts >= least) & (hashes != 0)], np.uint32)

    return Vocabulary(
        items=frequent([rows["item"] for rows in newest]),
        categories=frequent([rows["category"] for rows in newest]),
        pages=frequent([rows["page"] for rows in newest]),
        contexts={name: frequent([header[:, at] for header in headers]) for at, name in enumerate(CONTEXT)},
        item_buckets=item_buckets,
        page_buckets=page_buckets,
    )


def _find(known: Hashes, values: Hashes) -> tuple[NDArray[np.bool_], Ints]:
    """Whether each value is among the sorted `known`, and where."""
    if not len(known):
        return np.zeros(len(values), np.bool_), np.zeros(len(values), np.int64)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[place] == values, place
