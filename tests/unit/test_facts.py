"""What is remembered of an event's strings."""

from itertools import pairwise

from worker import facts
from worker.events import Event


def test_long_pages_are_hashed_alike_and_not_remembered() -> None:
    """A crawler's addresses are as long as they may be, and come once."""
    events = [Event("e", "ann", 1, "page_view", page=f"/{number}".ljust(2048, "?")) for number in range(9)]
    before = facts.hash32.cache_info().currsize
    pages = [facts.of(event).page for event in events]
    assert facts.hash32.cache_info().currsize <= before + 1  # and nothing, of an event without an item
    assert pages == [facts.hash32(event.page) for event in events]
    assert all(one != other for one, other in pairwise(pages))
