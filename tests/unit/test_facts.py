"""What is kept of an event, by the hash's own definition, and what is remembered of its strings."""

import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

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


def test_without_a_page_it_is_the_first_items_own() -> None:
    """A shop whose events name no pages tells the head by it which product is looked at."""
    looked = structs.replace(PLAIN, items=(Item("sku1"), Item("sku2")))
    assert facts.of(looked).page == low("sku1", 32)
    assert facts.of(structs.replace(looked, search_term="bag")).page == low("bag", 32)
    assert facts.of(structs.replace(looked, page="/s")).page == low("/s", 32)


def test_a_type_without_a_number_is_other() -> None:
    assert facts.of(structs.replace(PLAIN, type="wave")).kind == 0


def test_a_visit_beyond_the_count_is_the_last_counted() -> None:
    context = facts.of(structs.replace(PLAIN, context=Context(visit_number=1_000_000))).context
    assert facts.CONTEXT.unpack(context)[-1] == 0xFFFF


@pytest.mark.usefixtures("forgotten")
def test_no_text_is_hashed_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "xxh3_64_intdigest", lambda _: 1 << 40)
    fact = facts.of(structs.replace(PLAIN, page="a", session_id="a"))
    assert (fact.page, fact.session) == (1, 1)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nothing is remembered before the test, and nothing of it behind."""
    remembered = facts._hashes32, facts._hashes16, facts._contexts
    for answers in remembered:
        answers.clear()
    yield
    for answers in remembered:
        answers.clear()


def _wide(number: int, length: int) -> str:
    """The characters that take the most memory."""
    return f"{number}".ljust(length, "\U0001f6cd")


def _visit(said: Sequence[str]) -> Context:
    return Context(**dict(zip(structs.asdict(Context()), said, strict=False)))  # type: ignore[arg-type]  # no number


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(lambda n: {"page": f"/{n}".ljust(2048, "?")}, id="page of a crawler"),
        pytest.param(lambda n: {"search_term": _wide(n, 512)}, id="search term"),
        pytest.param(lambda n: {"session_id": _wide(n, 128)}, id="session"),
        pytest.param(lambda n: {"items": (Item(_wide(n, 128), item_category=_wide(n, 512)),)}, id="item"),
        pytest.param(lambda n: {"context": _visit([_wide(n, 512)] * 7)}, id="context"),
        pytest.param(lambda n: {"context": _visit([_wide(n, 100 + part) for part in range(7)])}, id="its sum"),
    ],
)
def test_what_is_as_long_as_it_may_be_is_hashed_alike_and_not_remembered(
    spoilt: Callable[[int], dict[str, Any]],
) -> None:
    """It comes once, and 65,536 of it would take hundreds of megabytes."""
    events = [structs.replace(PLAIN, **spoilt(number)) for number in range(100)]
    found = [facts.of(event) for event in events]
    remembered = [*facts._hashes32, *facts._hashes16]
    assert all(sys.getsizeof(text) <= 512 for text in remembered)
    assert not facts._contexts
    assert found == [facts.of(event) for event in events]
    assert all(one != other for one, other in pairwise(found))


@pytest.mark.usefixtures("forgotten")
def test_so_many_are_remembered_and_the_next_is_hashed_alike() -> None:
    events = [structs.replace(PLAIN, page=f"/{number}", context=Context(f"{number}")) for number in range(70_000)]
    texts = contexts = 0
    for event in events:
        assert facts.of(event).page == low(event.page or "", 32)
        texts, contexts = max(texts, len(facts._hashes32)), max(contexts, len(facts._contexts))
    assert (texts, contexts) == (1 << 16, 1 << 14)
