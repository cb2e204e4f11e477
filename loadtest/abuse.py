"""Synthetic abuse: what machines and thieves do in a shop, as facts to be folded behind a real visitor's window. Pure.

The sample has no labels of abuse. These are inventions, built to be told from people with an effort, and no measure of
what real abuse looks like; wherever numbers on them are reported, they are called synthetic. Items, pages and prices
are the real shop's. Each generator draws its own strength: pace, length, jitter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np

from worker import window
from worker.events import KINDS
from worker.facts import NO_CONTEXT, Facts

_KIND: Final = {name: number for number, name in enumerate(KINDS)}
_HOUR_MS: Final = 3_600_000

T = TypeVar("T")


class Act(NamedTuple):
    """One event before it has a time: so many ms after the one before it."""

    gap_ms: float
    kind: int
    item: int
    category: int
    page: int
    price_cents: int


@dataclass(frozen=True, slots=True)
class Shop:
    """What the generators take from real visitors."""

    views: Sequence[Act]
    """Views of items, each as some visitor had it."""
    lists: Sequence[Act]
    sessions: Sequence[Sequence[Act]]
    """Sessions of at least 8 events."""


def shop(windows: Sequence[bytes]) -> Shop:
    """From the newest sessions of real windows, whole or cut off behind their rows."""
    sessions = [_session(one) for one in windows]
    acts = [act for session in sessions for act in session]
    return Shop(
        views=[act for act in acts if act.kind == _KIND["view_item"] and act.item],
        lists=[act for act in acts if act.kind == _KIND["view_item_list"]],
        sessions=[session for session in sessions if len(session) >= 8],
    )


def scripted_browsing(rng: np.random.Generator, real: Shop) -> list[Act]:
    """A catalogue read item by item at an even pace, 0.3 to 12 s, which jitters by 3 to 15 %."""
    count, pace, jitter = int(rng.integers(20, 81)), 1000 * _between(rng, 0.3, 12), rng.uniform(0.03, 0.15)
    items = [real.views[at] for at in rng.permutation(len(real.views))[:count]]
    lists = rng.random(len(items)) < 0.15
    acts = [_pick(rng, real.lists) if is_list else act for act, is_list in zip(items, lists, strict=True)]
    return [act._replace(gap_ms=pace * (1 + jitter * rng.standard_normal())) for act in acts]


def cart_hoarding(rng: np.random.Generator, real: Shop) -> list[Act]:
    """15 to 50 items into the cart, seldom looked at before, no checkout."""
    acts: list[Act] = []
    pace = 1000 * _between(rng, 1, 8)
    for _ in range(int(rng.integers(15, 51))):
        view = _pick(rng, real.views)
        if rng.random() < 0.3:
            acts.append(view._replace(gap_ms=_about(rng, pace)))
        acts.append(view._replace(kind=_KIND["add_to_cart"], gap_ms=_about(rng, pace)))
        if rng.random() < 0.05:
            acts.append(view._replace(kind=_KIND["view_cart"], item=0, category=0, gap_ms=_about(rng, pace)))
    return acts


def card_testing(rng: np.random.Generator, real: Shop) -> list[Act]:
    """One cheap item, then 8 to 30 attempts to pay, some of them from the start of the checkout."""
    view = min((_pick(rng, real.views) for _ in range(5)), key=lambda act: act.price_cents)
    pace = 1000 * _between(rng, 2, 15)
    acts = [view._replace(kind=_KIND[kind], gap_ms=_about(rng, pace)) for kind in ("view_item", "add_to_cart")]
    for _ in range(int(rng.integers(8, 31))):
        kinds = ["add_payment_info", "review_order"]
        if rng.random() < 0.4:
            kinds.insert(0, "begin_checkout")
        acts += [view._replace(kind=_KIND[kind], gap_ms=_about(rng, pace)) for kind in kinds]
    return acts


def account_sharing(rng: np.random.Generator, real: Shop) -> list[Act]:
    """Two real visitors' sessions at the same time in one account. The second's session is told by `SECOND`."""
    acts = []
    for owner in (0, SECOND):
        time = rng.uniform(0, 30_000)
        for act in _pick(rng, real.sessions):
            time += act.gap_ms
            acts.append((time, act._replace(price_cents=act.price_cents | owner)))
    acts.sort(key=lambda one: one[0])
    before = 0.0
    merged = []
    for time, act in acts:
        merged.append(act._replace(gap_ms=time - before))
        before = time
    return merged


def replayed_session(rng: np.random.Generator, real: Shop) -> list[Act]:
    """A real session sent again 2 to 5 times, its gaps right to 2 %, minutes apart."""
    recorded = list(_pick(rng, real.sessions))[:20]
    acts = []
    for _ in range(int(rng.integers(2, 6)) + 1):
        pause = 60_000 * _between(rng, 1, 20)
        acts += [
            act._replace(gap_ms=pause if at == 0 else act.gap_ms * (1 + 0.02 * rng.standard_normal()))
            for at, act in enumerate(recorded)
        ]
    return acts


SECOND: Final = 1 << 40
"""Marks the events of a second session, where generators make two at a time."""

ABUSE: Final[dict[str, Callable[[np.random.Generator, Shop], list[Act]]]] = {
    "scripted browsing": scripted_browsing,
    "cart hoarding": cart_hoarding,
    "card testing": card_testing,
    "account sharing": account_sharing,
    "replayed session": replayed_session,
}
"""The kinds of synthetic abuse."""


def inject(rng: np.random.Generator, acts: Sequence[Act], carrier: bytes) -> list[bytes]:
    """The windows after each of the acts, a pause of 1 to 48 h behind what the carrier did."""
    rules = window.Rules()
    newest = window.newest_ms(carrier)
    encoded: bytes | None = None
    for number, (age_ms, row) in enumerate(_rows(carrier)):
        encoded = window.fold(encoded, _facts(number, newest - age_ms, Act(0, *row[:5]), row[5]), rules=rules).window
    time = newest + _HOUR_MS * _between(rng, 1, 48)
    sessions = [int(one) for one in rng.integers(1, 1 << 16, 2)]
    windows = []
    for number, act in enumerate(acts):
        time += max(act.gap_ms, 0)
        session = sessions[act.price_cents >= SECOND]
        fact = _facts(1000 + number, int(time), act._replace(price_cents=act.price_cents % SECOND), session)
        encoded = window.fold(encoded, fact, rules=rules).window
        windows.append(encoded)
    return windows


def _facts(number: int, time_ms: int, act: Act, session: int) -> Facts:
    return Facts(number + 1, time_ms, act.kind, act.item, act.category, act.page, act.price_cents, session, NO_CONTEXT)


def _rows(encoded: bytes) -> list[tuple[int, tuple[int, int, int, int, int, int]]]:
    """(age in ms, (kind, item, category, page, price in cents, session)) of each row, oldest first."""
    newest, rows = window.newest_ms(encoded), []
    for place in range(window.length(encoded)):
        time, item, category, page, kind_price, session = window.ROW.unpack_from(
            encoded, window.ROWS_AT + place * window.ROW.size
        )
        fields = (kind_price & 0xFF, item, category, page, kind_price >> 8, session)
        rows.append(((newest - time) % (1 << 32), fields))
    return rows


def _session(encoded: bytes) -> list[Act]:
    """The acts of the newest row's session."""
    rows = _rows(encoded)
    start = len(rows) - 1
    while start > 0 and rows[start - 1][1][5] == rows[-1][1][5]:
        start -= 1
    ages = [age for age, _ in rows]
    return [Act(ages[max(at - 1, start)] - ages[at], *rows[at][1][:5]) for at in range(start, len(rows))]


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _about(rng: np.random.Generator, mean: float) -> float:
    """Log-normal, as a hand or a script that imitates one."""
    return float(mean * np.exp(0.35 * rng.standard_normal()))
