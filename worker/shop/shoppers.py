"""What one visitor does from the first page to the last: kinds, dwell times, items and pages drawn from statistics.

Knows nothing of rates, of other visitors or of how events travel.
"""

from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final

import msgspec
import numpy as np

from worker.events import Context, Event, Item
from worker.shop.ga360 import ORDER_COMPLETED
from worker.shop.statistics import END, Segment, Statistics

_DRAWS: Final = 4096  # a draw is one look-up in a table so long: 0.1 µs; a probability is off by 1/8192 at most
_BOT_EVENTS: Final = (40, 80)
_BOT_DWELL_S: Final = (0.15, 0.25)
_LOOKS_ELSEWHERE: Final = 0.3  # of the views do not follow a selection of the same item, roughly
_MAX_BASKET: Final = 20
_CHECKOUT: Final = frozenset({"begin_checkout", "add_payment_info", "review_order", "purchase"})


class _Manners:
    """One segment's tables, ready to be drawn from."""

    def __init__(self, segment: Segment) -> None:
        self.opening = table(segment.opening)
        self.after_opening = {kind: table(counts) for kind, counts in segment.after_opening.items()}
        self.transitions = {kind: table(counts) for kind, counts in segment.transitions.items()}
        self.dwell_s = {kind: _between(quantiles, 1000) for kind, quantiles in segment.dwell_ms.items()}
        self.contexts = [context for context, _ in segment.contexts]
        self.context_ends = list(accumulate(count for _, count in segment.contexts))


@dataclass(slots=True, kw_only=True)
class Visit:
    """One session under way. `kind` is the event that comes next; `bot_events_left` is None for people."""

    manners: _Manners
    kind: str
    context: Context
    user: int
    visits: int
    session: str
    opened: bool = False
    paid: bool = False
    item: int | None = None
    basket: tuple[Item, ...] = ()
    bot_events_left: int | None = None


class Shoppers:
    """Draws visits and their events. Everything it decides comes from `random`."""

    bot_mean_events: Final = sum(_BOT_EVENTS) / 2
    bot_mean_dwell_s: Final = sum(_BOT_DWELL_S) / 2

    def __init__(self, statistics: Statistics, random: Random) -> None:
        self._random = random.random
        self._between = random.uniform
        self._whole = random.randint
        self._buying, self._looking = _Manners(statistics.buying), _Manners(statistics.looking)
        self._buying_share = statistics.buying.sessions / statistics.sessions
        self._returns = statistics.returns
        self._away_s = _between(statistics.gap_s, 1)
        self._pages = {kind: table(dict(pages)) for kind, pages in statistics.pages.items()}
        self._items = [
            Item(item_id=f"item-{number}", item_category=statistics.categories[category] or None, price=cents / 100)
            for number, (category, cents, _) in enumerate(statistics.items, 1)
        ]
        self._item_ends = list(accumulate(count for _, _, count in statistics.items))

    def visit(self, *, user: int, visits: int, session: str) -> Visit:
        """A session of that user, who has been here `visits` times with this one."""
        manners = self._buying if self._random() < self._buying_share else self._looking
        context = manners.contexts[bisect(manners.context_ends, self._random() * manners.context_ends[-1])]
        return Visit(
            manners=manners,
            kind=self._draw(manners.opening),
            context=msgspec.structs.replace(context, visit_number=visits),
            user=user,
            visits=visits,
            session=session,
        )

    def bot_visit(self, *, user: int, session: str) -> Visit:
        """A machine that views the catalogue's items one after another, five a second."""
        visit = self.visit(user=user, visits=1, session=session)
        visit.kind = "view_item"
        visit.bot_events_left = self._whole(*_BOT_EVENTS)
        return visit

    def event(self, visit: Visit, *, event_id: str, time_ms: int) -> Event:
        """The visit's next event."""
        kind = visit.kind
        items = self._items_of(visit)
        value = round(sum(item.price or 0.0 for item in items), 2) if kind == "purchase" else None
        return Event(
            event_id=event_id,
            user_id=f"shopper-{visit.user}",
            event_time=time_ms,
            type=kind,
            session_id=visit.session,
            items=items,
            value=value,
            currency=None if value is None else "USD",
            search_term=self._search_term() if kind == "search" else None,
            page=self._page(visit),
            context=visit.context,
        )

    def go_on(self, visit: Visit) -> float | None:
        """What comes after the visit's event: seconds until the next one, or None when the visit is over."""
        kind, opened, visit.opened = visit.kind, visit.opened, True
        visit.paid = kind == "purchase"
        if visit.paid:
            visit.basket = ()
        if visit.bot_events_left is not None:
            visit.bot_events_left -= 1
            return self._between(*_BOT_DWELL_S) if visit.bot_events_left else None
        manners = visit.manners
        following = (manners.transitions if opened else manners.after_opening).get(kind)
        if following is None or (next_kind := self._draw(following)) == END:
            return None
        visit.kind = next_kind
        return manners.dwell_s[kind][int(self._random() * _DRAWS)]

    def away_s(self) -> float | None:
        """How long the user stays away after a session, or None: for good."""
        return self._away_s[int(self._random() * _DRAWS)] if self._random() < self._returns else None

    def _draw(self, choices: tuple[str, ...]) -> str:
        return choices[int(self._random() * _DRAWS)]

    def _popular(self) -> int:
        return bisect(self._item_ends, self._random() * self._item_ends[-1])

    def _search_term(self) -> str:
        category = self._items[self._popular()].item_category or "gift"
        return category.rstrip("/").rpartition("/")[2].lower()

    def _page(self, visit: Visit) -> str | None:
        if visit.paid:
            return ORDER_COMPLETED
        pages = self._pages.get(visit.kind)
        return None if pages is None else self._draw(pages)

    def _items_of(self, visit: Visit) -> tuple[Item, ...]:
        kind = visit.kind
        if visit.bot_events_left is not None:
            visit.item = 0 if visit.item is None else (visit.item + 1) % len(self._items)
        elif visit.item is None or kind == "select_item" or (kind == "view_item" and self._random() < _LOOKS_ELSEWHERE):
            visit.item = self._popular()
        item = self._items[visit.item]
        if kind in {"select_item", "view_item"}:
            return (item,)
        if kind == "add_to_cart":
            item = msgspec.structs.replace(item, quantity=1)
            visit.basket = (*visit.basket[1 - _MAX_BASKET :], item)
            return (item,)
        if kind == "remove_from_cart":
            removed = visit.basket[-1:] or (item,)
            visit.basket = visit.basket[:-1]
            return removed
        return (visit.basket or (item,)) if kind in _CHECKOUT else ()


def table(counts: Mapping[str, int]) -> tuple[str, ...]:
    """`_DRAWS` names in proportion to their counts: drawing a name is one look-up."""
    ends = np.cumsum(list(counts.values()))
    places = np.searchsorted(ends / ends[-1], (np.arange(_DRAWS) + 0.5) / _DRAWS)
    names = list(counts)
    return tuple(names[place] for place in places.tolist())


def mean_dwell_s(statistics: Statistics) -> float:
    """Seconds from one event to the next of the same visit, on average over all events; a visit's last counts as 0."""
    total = 0.0
    for segment in (statistics.buying, statistics.looking):
        for following in (segment.after_opening, segment.transitions):
            for kind, counts in following.items():
                total += sum(counts.values()) * (1 - counts.get(END, 0) / sum(counts.values())) * _mean_s(segment, kind)
    return total / statistics.events


def _mean_s(segment: Segment, kind: str) -> float:
    return sum(_between(segment.dwell_ms[kind], 1000)) / _DRAWS if kind in segment.dwell_ms else 0.0


def _between(quantiles: list[int], unit: int) -> tuple[float, ...]:
    """`_DRAWS` values between evenly spaced quantiles."""
    values = np.interp(np.linspace(0, 1, _DRAWS), np.linspace(0, 1, len(quantiles)), np.array(quantiles) / unit)
    return tuple(values.tolist())
