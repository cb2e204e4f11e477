import pytest

from worker.events import Context, Event, Item
from worker.shop import statistics
from worker.shop.statistics import END, load, summarise


def session(name: str, user: str, kinds: list[str], *, start_ms: int, step_ms: int = 1000) -> list[Event]:
    return [
        Event(
            event_id=f"{name}-{number}",
            user_id=user,
            event_time=start_ms + number * step_ms,
            type=kind,
            session_id=name,
            page=f"/{kind}?visitor={user}",
            items=(Item(item_id="sku-1", item_category="Bags", price=4.99),) if kind == "view_item" else (),
            context=Context(channel="Direct", visit_number=3),
        )
        for number, kind in enumerate(kinds)
    ]


def shop() -> list[Event]:
    events = []
    for number in range(10):
        start_ms = number * 100_000
        events += session(f"a{number}", f"u{number}", ["page_view", "view_item", "purchase"], start_ms=start_ms)
        events += session(f"b{number}", f"u{number}", ["page_view"], start_ms=start_ms + 50_000)
    return events


def test_counts_sessions_by_what_they_came_to() -> None:
    found = summarise(shop(), source="made up")
    assert (found.events, found.sessions, found.visitors, found.purchases) == (40, 20, 10, 10)
    assert (found.buying.sessions, found.looking.sessions) == (10, 10)
    assert found.returns == 0.5
    assert found.buying.opening == {"page_view": 10}
    assert found.buying.after_opening == {"page_view": {"view_item": 10}}
    assert found.buying.transitions == {"view_item": {"purchase": 10}, "purchase": {END: 10}}
    assert found.looking.after_opening == {"page_view": {END: 10}}
    assert set(found.buying.dwell_ms["page_view"]) == {1000}
    assert set(found.gap_s) == {48}
    assert (found.categories, found.items) == (["Bags"], [(0, 499, 10)])
    assert sum(found.hours) == 40


def test_holds_nothing_about_a_visitor() -> None:
    found = summarise(shop(), source="made up")
    assert found.pages["page_view"] == [("/page_view", 20)]
    assert [context.visit_number for context, _ in found.buying.contexts] == [None]
    rare = summarise(session("c", "u", ["page_view", "sign_up"], start_ms=0), source="made up")
    assert rare.pages == {"page_view": [], "sign_up": []}
    assert rare.looking.contexts == []
    assert rare.items == []


def test_the_shipped_file_is_small_and_whole() -> None:
    assert statistics.FILE.stat().st_size < 60_000
    found = load()
    for segment in (found.buying, found.looking):
        for row in (segment.opening, *segment.after_opening.values(), *segment.transitions.values()):
            assert row
            assert all(kind == END or kind in segment.transitions for kind in row)
        assert set(segment.dwell_ms) >= {kind for kind, row in segment.transitions.items() if set(row) != {END}}
    assert found.purchases / found.sessions == pytest.approx(0.013, abs=0.001)
