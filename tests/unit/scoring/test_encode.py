"""The vectorised decoding and encoding against a plain loop over `window.view`."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.scoring import making
from worker import window
from worker.errors import Fatal
from worker.events import Item
from worker.scoring import encode
from worker.scoring.batch import Batch
from worker.scoring.encode import FIELDS, NOTHING, Vocabulary


def bucket(value: int, *, start: int, octave: int, most: int) -> int:
    return max(0, min(most - 1, int((math.log2(max(value, 1)) - start) * octave)))


def by_hand(encoded: bytes, vocabulary: Vocabulary) -> list[list[int]]:
    """One window's rows of the embedding table, newest first, event by event."""
    base = vocabulary.bases
    items, categories, pages = (part.tolist() for part in (vocabulary.items, vocabulary.categories, vocabulary.pages))
    seen = window.view(encoded)
    sessions_back = 0
    result = []
    for place in reversed(range(len(seen.rows))):
        row = seen.rows[place]
        before = seen.rows[place - 1] if place else None
        item = second = category = page = price = NOTHING
        if row.item in items:
            item = base["item"] + items.index(row.item)
        elif row.item:
            item = base["item_tail"] + row.item % vocabulary.item_buckets
            mixed = (row.item * 0x9E3779B1) & 0xFFFFFFFF
            second = base["item_tail"] + (mixed >> 8) % vocabulary.item_buckets
        if row.category:
            category = base["category"] + (1 + categories.index(row.category) if row.category in categories else 0)
        if row.page in pages:
            page = base["page"] + pages.index(row.page)
        elif row.page:
            page = base["page_tail"] + row.page % vocabulary.page_buckets
        if row.price_cents:
            price = base["price"] + bucket(row.price_cents, start=6, octave=2, most=encode.PRICES)
        gap = base["gap"]
        if before:
            gap += 1 + bucket(row.time_ms - before.time_ms, start=6, octave=1, most=encode.TIMES)
        age = base["age"] + bucket(seen.newest_ms - row.time_ms, start=6, octave=1, most=encode.TIMES)
        opens = before is None or before.session != row.session
        session = base["session"] + 2 * min(sessions_back, 3) + opens
        result.append([base["kind"] + row.kind, item, second, category, page, price, gap, age, session])
        sessions_back += opens
    return result


def test_tokens_are_those_of_a_plain_loop() -> None:
    windows = making.random_windows(80, seed=11)
    vocabulary = making.vocabulary()
    batch = Batch.of(windows)
    tokens = encode.tokens(batch, vocabulary)
    for at, encoded in enumerate(windows):
        grid = encode.padded(batch, tokens, np.array([at]))[0]
        assert grid.tolist() == by_hand(encoded, vocabulary)


def test_padding_is_nothing_and_stands_behind() -> None:
    batch = Batch.of(making.random_windows(20, seed=12))
    tokens = encode.tokens(batch, making.vocabulary())
    grid = encode.padded(batch, tokens, np.arange(len(batch)))
    assert grid.shape == (20, batch.lengths.max(), len(FIELDS))
    filled = grid[:, :, 0] != NOTHING
    assert filled.sum(axis=1).tolist() == batch.lengths.tolist()
    assert (np.diff(filled.astype(int), axis=1) <= 0).all()
    assert not grid[~filled].any()


def test_every_row_lies_in_the_table() -> None:
    vocabulary = making.vocabulary()
    tokens = encode.tokens(Batch.of(making.random_windows(80, seed=13)), vocabulary)
    assert tokens.min() >= 0
    assert tokens.max() < vocabulary.rows


def test_an_unknown_item_gets_two_shared_rows_and_what_else_is_known() -> None:
    known = making.vocabulary()
    never_seen = Item(item_id="never seen", item_category="c1", price=12.5)
    batch = Batch.of([making.window_of([making.event(1, items=(never_seen,))])])
    row = dict(zip(FIELDS, encode.tokens(batch, known)[0].tolist(), strict=True))
    tail = range(known.bases["item_tail"], known.bases["category"])
    assert row["item"] in tail
    assert row["item_second"] in tail
    assert row["category"] > known.bases["category"]
    assert row["price"] != NOTHING


def test_a_forgotten_row_looks_like_one_never_seen() -> None:
    vocabulary = making.vocabulary()
    batch = Batch.of(making.random_windows(30, seed=14))
    forgotten = encode.tokens(batch, vocabulary, forgotten=np.ones(batch.events, np.bool_))
    blind = encode.tokens(batch, replace(vocabulary, items=np.array([], np.uint32)))
    own = range(vocabulary.bases["item"], vocabulary.bases["item_tail"])
    assert not np.isin(forgotten[:, 1], own).any()
    has_item = batch.rows.item != 0
    assert ((forgotten[:, 2] != NOTHING) == has_item).all()
    assert ((blind[:, 2] != NOTHING) == has_item).all()


def test_contexts_are_nothing_other_or_their_own() -> None:
    vocabulary = making.vocabulary()
    batch = Batch.of(making.random_windows(60, seed=15))
    rows = encode.contexts(batch, vocabulary)
    for at, name in enumerate(encode.CONTEXT):
        known = vocabulary.contexts[name].tolist()
        for value, row in zip(batch.heads.context[:, at].tolist(), rows[:, at].tolist(), strict=True):
            assert row == (0 if value == 0 else known.index(value) + 2 if value in known else 1)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda encoded: encoded[:50], id="cut off"),
        pytest.param(lambda encoded: encoded[: 42 + 22], id="rows missing"),
        pytest.param(lambda encoded: b"\x02" + encoded[1:], id="another version"),
        pytest.param(lambda encoded: encoded[:2] + b"\x00" + encoded[3:], id="no rows"),
    ],
)
def test_bytes_that_are_no_window_are_refused(damage: Callable[[bytes], bytes]) -> None:
    good = making.window_of([making.event(1), making.event(2)])
    with pytest.raises(Fatal, match="window"):
        Batch.of([good, damage(good)])


def test_without_session_ids_a_long_pause_opens_a_session() -> None:
    times = [0, 60_000, 60_000 + 31 * 60_000]
    events = [making.event(at, event_time=making.START_MS + time) for at, time in enumerate(times)]
    assert Batch.of([making.window_of(events)]).rows.sessions_back.tolist() == [1, 1, 0]
