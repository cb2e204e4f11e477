"""What is kept of an event, by the hash's own definition, and what is remembered of its strings."""

import struct
from itertools import pairwise

import pytest
from msgspec import structs
from xxhash import xxh3_64_intdigest

from worker import facts
from worker.events import Context, Event, Item

PLAIN = Event("e", "ann", 1, "page_view")


def low(text: str, bits: int) -> int:
    """The low bits of XXH3-64 over UTF-8: what stands in stored windows and in bundles, so no version may change it."""
    return xxh3_64_intdigest(text.encode()) & ((1 << bits) - 1)


def test_every_fact_has_its_own_place() -> None:
    context = Context("Direct", "google", "cpc", "Chrome", "Android", "mobile", "Österreich", visit_number=3)
    items = (Item("sku1", item_category="Bags", price=19.99), Item("sku2", item_category="Hats", price=5.0))
    event = Event("e1", "ann", 7, "view_item", session_id="s1", items=items, page="/bags", context=context)
    names = ("Direct", "google", "cpc", "Chrome", "Android", "mobile", "Österreich")
    assert facts.of(event) == facts.Facts(
        id=xxh3_64_intdigest(b"e1"),
        time_ms=7,
        kind=4,
        item=low("sku1", 32),
        category=low("Bags", 32),
        page=low("/bags", 32),
        price_cents=1999,
        session=low("s1", 16),
        context=struct.pack("<7IH", *(low(name, 32) for name in names), 3),
    )


def test_what_an_event_does_not_say_is_0() -> None:
    said = facts.Facts(xxh3_64_intdigest(b"e"), 1, 1, 0, 0, 0, 0, 0, bytes(30))
    assert facts.of(PLAIN) == said
    assert facts.of(structs.replace(PLAIN, context=Context(), page="")) == said


@pytest.mark.parametrize(
    ("price", "cents"),
    [
        pytest.param(0.29, 29, id="28.999... is 29"),
        pytest.param(167_772.14, (1 << 24) - 2, id="below the bound"),
        pytest.param(1e9, (1 << 24) - 1, id="what no row has place for"),
    ],
)
def test_a_price_is_in_whole_cents(price: float, cents: int) -> None:
    assert facts.of(structs.replace(PLAIN, items=(Item("i", price=price),))).price_cents == cents


def test_the_page_of_a_search_is_its_term() -> None:
    assert facts.of(structs.replace(PLAIN, search_term="bag")).page == low("bag", 32)
    assert facts.of(structs.replace(PLAIN, search_term="bag", page="/s")).page == low("/s", 32)


def test_a_type_without_a_number_is_other() -> None:
    assert facts.of(structs.replace(PLAIN, type="wave")).kind == 0


def test_a_visit_beyond_the_count_is_the_last_counted() -> None:
    context = facts.of(structs.replace(PLAIN, context=Context(visit_number=1_000_000))).context
    assert facts.CONTEXT.unpack(context)[-1] == 0xFFFF


def test_no_text_is_hashed_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "xxh3_64_intdigest", lambda _: 1 << 40)
    assert (facts.hash32.__wrapped__("a"), facts.hash16.__wrapped__("a")) == (1, 1)


def test_long_pages_are_hashed_alike_and_not_remembered() -> None:
    """A crawler's addresses are as long as they may be, and come once."""
    events = [structs.replace(PLAIN, page=f"/{number}".ljust(2048, "?")) for number in range(9)]
    before = facts.hash32.cache_info().currsize
    pages = [facts.of(event).page for event in events]
    assert facts.hash32.cache_info().currsize <= before + 1  # and nothing, of an event without an item
    assert pages == [facts.hash32(event.page) for event in events]
    assert all(one != other for one, other in pairwise(pages))
