"""How much waits, and how much goes into one batch."""

import asyncio
import time
from typing import Any

import pytest

from tests.unit.stream.fetched import Rec, recs, sized
from worker.stream.fetchqueue import FetchQueue, Share, _pieces


@pytest.fixture
def waiting() -> FetchQueue:
    return FetchQueue(max_batch_events=4, share=lambda: Share(10, 300))


async def taken(waiting: FetchQueue, early_s: float = 0.0) -> list[int]:
    return [record.offset for record in await asyncio.wait_for(waiting.take(early_s), 5)]


async def waits(waiting: FetchQueue, early_s: float = 0.0) -> "asyncio.Task[list[int]]":
    """A take that has come as far as it does by itself."""
    taking = asyncio.create_task(taken(waiting, early_s))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not taking.done()
    return taking


async def test_batches_are_bounded(waiting: FetchQueue) -> None:
    waiting.put(recs(*range(7)))
    assert await taken(waiting) == [0, 1, 2, 3]
    assert await taken(waiting) == [4, 5, 6]


async def test_fetches_that_fit_go_together(waiting: FetchQueue) -> None:
    waiting.put(recs(0))
    waiting.put(recs(1, 2))
    waiting.put(recs(3, 4))
    assert await taken(waiting) == [0, 1, 2]
    assert (waiting.events, waiting.bytes) == (2, 2)
    assert await taken(waiting) == [3, 4]


async def test_a_take_waits_for_the_first_record(waiting: FetchQueue) -> None:
    taking = await waits(waiting)
    waiting.put(recs(0))
    assert await taking == [0]


async def test_an_early_batch_waits_for_more_until_its_time_or_until_it_is_full(waiting: FetchQueue) -> None:
    waiting.put(recs(0, 1))
    taking = await waits(waiting, 60.0)
    waiting.put(recs(2))
    done, _ = await asyncio.wait([taking], timeout=0.01)
    assert not done
    waiting.put(recs(3, 4))
    assert await taking == [0, 1, 2]  # with the next fetch they would be 5
    begin = time.monotonic()
    assert await taken(waiting, 0.05) == [3, 4]
    assert time.monotonic() - begin >= 0.04


async def test_an_early_batch_does_not_wait_for_more_than_may_wait() -> None:
    waiting = FetchQueue(max_batch_events=4, share=lambda: Share(3, 300))
    waiting.put(recs(0, 1, 2))
    assert await taken(waiting, 60.0) == [0, 1, 2]


async def test_an_early_batch_does_not_wait_for_more_bytes_than_go_into_it(
    waiting: FetchQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stream.fetchqueue.BATCH_BYTES", 100)
    waiting.put(sized(0, 99))
    taking = await waits(waiting, 60.0)
    waiting.put(sized(1, 1))
    assert await taking == [0, 1]


@pytest.mark.parametrize(
    ("sizes", "pieces"),
    [
        pytest.param([0], [(1, 0)], id="one that is empty"),
        pytest.param([25] * 4, [(4, 100)], id="whole at both bounds"),
        pytest.param([1] * 9, [(4, 4), (4, 4), (1, 1)], id="so many records each"),
        pytest.param([60, 40, 1], [(2, 100), (1, 1)], id="so many bytes each"),
        pytest.param([101, 101], [(1, 101), (1, 101)], id="what is larger goes alone"),
        pytest.param([1, 1, 1, 1, 99, 1, 1], [(4, 4), (2, 100), (1, 1)], id="both, from the last cut on"),
    ],
)
def test_a_fetch_is_cut_where_a_batch_would_be_full_and_nowhere_else(
    sizes: list[int], pieces: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stream.fetchqueue.BATCH_BYTES", 100)
    records = sized(0, *sizes)
    found = list(_pieces(records, 4))
    assert [(len(piece.records), piece.bytes) for piece in found] == pieces
    assert [record for piece in found for record in piece.records] == records


async def test_large_records_wait_and_go_in_batches_bounded_by_their_bytes(
    waiting: FetchQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stream.fetchqueue.BATCH_BYTES", 100)
    waiting.put(sized(0, 40, 40, 40))
    full = [waiting.full]
    waiting.put(sized(3, 150, 0, 61))
    assert [*full, waiting.full] == [False, True]
    assert [await taken(waiting) for _ in range(4)] == [[0, 1], [2], [3], [4, 5]]
    assert (waiting.events, waiting.bytes) == (0, 0)


async def test_headers_are_bytes_that_wait_too(waiting: FetchQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead letter keeps them, and all that waits holds them in memory."""
    monkeypatch.setattr("worker.stream.fetchqueue.BATCH_BYTES", 150)
    traced: list[Any] = [Rec(offset, headers=(("trace", bytes(94)), ("none", None))) for offset in range(3)]
    waiting.put(traced)
    assert waiting.full
    assert [await taken(waiting) for _ in range(3)] == [[0], [1], [2]]


async def test_headers_without_name_and_content_are_bytes_that_wait(waiting: FetchQueue) -> None:
    """They take two bytes each on the wire, hardly any packed, and 66 in memory."""
    empty: list[Any] = [Rec(0, headers=(("", None),) * 10)]
    waiting.put(empty)
    assert waiting.full
    assert waiting.bytes >= 66 * 10


async def test_the_share_may_change_while_records_wait() -> None:
    shares = [Share(2, 300), Share(5, 300)]
    waiting = FetchQueue(max_batch_events=4, share=lambda: shares[0])
    waiting.put(recs(0, 1))
    assert [waiting.full, shares.pop(0), waiting.full] == [True, Share(2, 300), False]


@pytest.mark.parametrize("early_s", [0.0, 60.0])
async def test_closing_ends_a_take_and_drops_what_waits(waiting: FetchQueue, early_s: float) -> None:
    if early_s:
        waiting.put(recs(0))
    taking = await waits(waiting, early_s)
    waiting.close()
    assert await taking == []
    assert (waiting.events, waiting.bytes) == (0, 0)
    assert await taken(waiting) == []
