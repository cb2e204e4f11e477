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
from worker.facts import hash32
from worker.scoring import aggregates, encode, risk
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


def test_packed_is_each_window_behind_its_first_position() -> None:
    windows, vocabulary = making.random_windows(50, seed=16), making.vocabulary()
    batch = Batch.of(windows)
    order = np.random.default_rng(1).permutation(len(batch))
    starts = np.empty(len(batch), np.int64)
    starts[order] = np.cumsum(batch.lengths[order] + 1) - batch.lengths[order] - 1
    first = vocabulary.rows
    tokens = encode.packed(batch, vocabulary, starts=starts, first=first).tolist()
    assert len(tokens) == batch.events + len(batch)
    for start, encoded in zip(starts.tolist(), windows, strict=True):
        newest_first = [[*row, first + 2 + back] for back, row in enumerate(by_hand(encoded, vocabulary))]
        expected = [[first, *[NOTHING] * (len(FIELDS) - 1), first + 1], *newest_first[::-1]]
        assert tokens[start : start + len(expected)] == expected


@pytest.mark.parametrize("starts", [[0, 2], [0, 4], [1, 4], [-3, 0]])
def test_packed_windows_neither_overlap_nor_leave_a_gap(starts: list[int]) -> None:
    batch = Batch.of([making.window_of([making.event(1), making.event(2)])] * 2)
    with pytest.raises(ValueError, match="overlap"):
        encode.packed(batch, making.vocabulary(), starts=np.array(starts), first=0)


def test_whoever_forgets_says_so_of_every_row() -> None:
    batch = Batch.of(making.random_windows(3, seed=17))
    with pytest.raises(ValueError, match="forgotten"):
        encode.tokens(batch, making.vocabulary(), forgotten=np.ones(batch.events - 1, np.bool_))


@pytest.mark.parametrize("known", [0, 1, 2, 3, 500], ids="{} hashes".format)
def test_an_index_finds_what_is_known_and_nothing_else(known: int) -> None:
    """Also at both ends of the range, and where all hashes share their leading bits."""
    rng = np.random.default_rng(known)
    ends = np.array([1, 2, 2**32 - 1], np.uint32)
    crowded = rng.integers(1 << 20, (1 << 20) + 700, 2 * known)
    for drawn in (rng.integers(1, 2**32, known), np.unique(crowded)[:known], ends[:known]):
        hashes = np.unique(drawn).astype(np.uint32)
        asked = np.unique(np.concatenate([hashes, hashes + np.uint32(1), ends, rng.integers(0, 2**32, 200)]))
        table = encode.Index.of(hashes)
        for value in asked.astype(np.int64):
            expected = hashes.tolist().index(value) if value in hashes.tolist() else -1
            assert encode._find(table, value) == expected


def test_buckets_are_those_of_the_logarithm() -> None:
    """For every price there is, and around every power of two for times."""
    prices = np.arange(1, 1 << 24)
    expected = np.clip((2 * (np.log2(prices) - 6)).astype(np.int64), 0, encode.PRICES - 1)
    borders = np.flatnonzero(np.diff(expected)) + 1
    for price in np.unique(np.concatenate([borders, borders + 1, prices[::4001], prices[-1:]])):
        assert encode._bucket(price * price, 12, encode.PRICES) == expected[price - 1]
    for time in {(1 << octave) + step for octave in range(33) for step in (-1, 0, 1)}:
        assert encode._bucket(np.int64(time), 6, encode.TIMES) == bucket(time, start=6, octave=1, most=encode.TIMES)


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
    windows = making.random_windows(60, seed=15)
    batch = Batch.of(windows)
    rows = encode.contexts(batch, vocabulary)
    assert vocabulary.columns == encode.COLUMNS
    seen = [window.view(encoded) for encoded in windows]
    for at, name in enumerate(encode.COLUMNS):
        known = vocabulary.contexts[name].tolist()
        values = {
            "newest_page": [view.rows[-1].page for view in seen],
            "newest_category": [view.rows[-1].category for view in seen],
        }.get(name) or batch.heads.context[:, at].tolist()
        assert len({*values}) > 1 or name not in encode.NEWEST
        for value, row in zip(values, rows[:, at].tolist(), strict=True):
            assert row == (0 if value == 0 else known.index(value) + 2 if value in known else 1)


def test_a_vocabulary_of_the_session_alone_encodes_what_it_knows() -> None:
    """As bundles of the first formats have it: the first columns, and the same rows in them."""
    whole = making.vocabulary()
    alone = replace(whole, contexts={name: whole.contexts[name] for name in encode.CONTEXT})
    batch = Batch.of(making.random_windows(60, seed=15))
    assert alone.columns == encode.CONTEXT
    assert alone.context_sizes() == whole.context_sizes()[: len(encode.CONTEXT)]
    assert np.array_equal(encode.contexts(batch, alone), encode.contexts(batch, whole)[:, : len(encode.CONTEXT)])


def test_pages_and_categories_of_the_newest_events_are_learnt_by_how_often_they_are_newest() -> None:
    shown = ["/seldom"] + ["/often"] * 2
    windows = [
        making.window_of(
            [making.event(1, page="/before"), making.event(2, page=page, items=(Item(item_id="i", item_category="c"),))]
        )
        for page in shown
    ]
    vocabulary = encode.learn([Batch.of(windows)], least=2)
    assert vocabulary.contexts["newest_page"].tolist() == [hash32("/often")]
    assert vocabulary.contexts["newest_category"].tolist() == [hash32("c")]
    found = encode.contexts(Batch.of(windows), vocabulary)[:, -2:].tolist()
    assert found == [[1, 2], [2, 2], [2, 2]]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda encoded: encoded[:50], id="cut off"),
        pytest.param(lambda encoded: encoded[: 42 + 22], id="rows missing"),
        pytest.param(lambda encoded: b"\x02" + encoded[1:], id="another version"),
        pytest.param(lambda encoded: encoded[:2] + b"\x00" + encoded[3:], id="no rows"),
        pytest.param(lambda encoded: encoded[:2] + b"\x41" + encoded[3:] + bytes(2000), id="more than 64 rows"),
        pytest.param(lambda encoded: encoded[:2] + b"\xff" + encoded[3:], id="rows of the next window"),
    ],
)
def test_bytes_that_are_no_window_are_refused(damage: Callable[[bytes], bytes]) -> None:
    good = making.window_of([making.event(1), making.event(2)])
    for windows in ([good, damage(good)], [damage(good), good], [damage(good)]):
        with pytest.raises(Fatal, match=r"^a window .* damaged$"):
            Batch.of(windows)


def test_rows_may_say_anything() -> None:
    """Whatever stands in a sound window's rows and header, every result lies within its bounds."""
    rng = np.random.default_rng(18)
    vocabulary = making.vocabulary()
    windows = []
    for encoded in making.random_windows(200, seed=18):
        noise = rng.integers(0, 256, len(encoded), np.uint8)
        noise[[0, 2]] = encoded[0], encoded[2]
        windows.append(noise.tobytes())
    batch = Batch.of(windows)
    tokens = encode.tokens(batch, vocabulary)
    assert tokens.min() >= 0
    assert tokens.max() < vocabulary.rows
    assert (encode.contexts(batch, vocabulary) <= 1).all()
    assert np.isfinite(aggregates.aggregates(batch)).all()
    score, _ = risk.risk(batch)
    assert ((score >= 0) & (score <= 1)).all()


def test_without_session_ids_a_long_pause_opens_a_session() -> None:
    times = [0, 60_000, 60_000 + 31 * 60_000]
    events = [making.event(at, event_time=making.START_MS + time) for at, time in enumerate(times)]
    assert Batch.of([making.window_of(events)]).rows.sessions_back.tolist() == [1, 1, 0]
