"""Synthetic abuse is what it says, and the study counts right."""

from itertools import pairwise

import numpy as np
import pytest

from loadtest import abuse, recall, risk
from loadtest.recall import Measured
from tests.unit.scoring import making
from worker import window
from worker.events import KINDS, Item
from worker.scores import RISK_REASONS
from worker.training.labels import START, TEST, Events


def carriers() -> list[bytes]:
    """Two sessions each: lists and items in turn."""
    rng = np.random.default_rng(51)
    made = []
    for _ in range(40):
        time, events = making.START_MS, []
        for number in range(24):
            time += int(rng.integers(500, 60_000))
            kind = "view_item" if number % 2 else "view_item_list"
            item = (Item(item_id=f"sku{rng.integers(90)}", price=9.5),) if number % 2 else ()
            session = f"s{number // 12}"
            events.append(
                making.event(number, type=kind, event_time=time, session_id=session, items=item, page=f"/{number % 5}")
            )
        made.append(making.window_of(events))
    return made


@pytest.fixture(scope="module")
def real() -> abuse.Shop:
    return abuse.shop(carriers())


@pytest.mark.parametrize("kind", abuse.ABUSE)
def test_abuse_is_repeatable_and_comes_behind_a_visitor(kind: str, real: abuse.Shop) -> None:
    carrier = carriers()[0]
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(52)
        runs.append(abuse.inject(rng, abuse.ABUSE[kind](rng, real), carrier))
    assert runs[0] == runs[1]
    first, last = window.view(runs[0][0]), window.view(runs[0][-1])
    before = window.view(carrier)
    assert [row.item for row in first.rows[:-1]] == [row.item for row in before.rows]
    assert [row.time_ms for row in first.rows[:-1]] == [row.time_ms for row in before.rows]
    assert first.rows[-1].time_ms - before.newest_ms >= 3_600_000
    assert last.newest_ms > first.newest_ms
    assert all(window.newest_ms(one) <= window.newest_ms(two) for one, two in pairwise(runs[0]))


def test_kinds_are_what_they_are_called(real: abuse.Shop) -> None:
    rng = np.random.default_rng(53)
    kind_of = {name: [KINDS[act.kind] for act in generate(rng, real)] for name, generate in abuse.ABUSE.items()}
    assert set(kind_of["scripted browsing"]) == {"view_item", "view_item_list"}
    assert kind_of["cart hoarding"].count("add_to_cart") >= 15
    assert kind_of["card testing"].count("add_payment_info") >= 8
    assert "purchase" not in kind_of["card testing"]
    gaps = np.array([act.gap_ms for act in abuse.scripted_browsing(rng, real)])
    assert gaps.std() < 0.25 * gaps.mean()
    replay = abuse.replayed_session(rng, real)
    names = [(act.kind, act.item, act.page) for act in replay]
    period = next(p for p in range(1, len(names)) if names[p:] == names[:-p])
    assert len(names) // period >= 3


def test_two_share_an_account_at_the_same_time(real: abuse.Shop) -> None:
    rng = np.random.default_rng(54)
    acts = abuse.account_sharing(rng, real)
    owners = [act.price_cents >= abuse.SECOND for act in acts]
    assert 0 < sum(owners) < len(owners)
    rows = window.view(abuse.inject(rng, acts, carriers()[1])[-1]).rows[-len(acts) :]
    sessions = [row.session for row in rows]
    assert len(set(sessions)) == 2
    assert sum(a != b for a, b in pairwise(sessions)) > 1
    assert max(row.price_cents for row in rows) < 10_000


def test_recall_is_counted_by_visitor_at_the_background_s_own_rate() -> None:
    rng = np.random.default_rng(55)
    rare = np.zeros((6000, len(RISK_REASONS)))
    rare[:, 2] = rng.random(6000)
    ordinary = Measured(rare, rng.random(6000), np.repeat(np.arange(2000), 3))
    limit = np.sort(rare[:, 2].reshape(2000, 3).max(axis=1))[-21]  # 20 of 2,000 are above
    shown = np.zeros((4, len(RISK_REASONS)))
    shown[:, 2] = [0.0, limit + 1e-6, limit, limit - 0.1]
    worse = Measured(shown, np.zeros(4), np.array([0, 0, 1, 1]))
    found = recall.recalls(ordinary, {"cart hoarding": worse, "card testing": worse}, worse)
    assert found["recall"]["all signs at 1 %"]["card testing"][0] == 0.5
    assert found["bot_like_found"]["all signs at 1 %"] == 1
    assert found["recall"]["the surprise alone at 1 %"]["card testing"][0] == 0
    assert found["recall"]["the rule at 1 %"]["card testing"][0] == 0
    unforeseen = found["recall"]["unforeseen: all signs at 1 %"]  # the third sign was made for card testing
    assert (unforeseen["cart hoarding"][0], unforeseen["card testing"][0]) == (0.5, 0)


def test_each_kind_has_its_signs_and_they_are_signs() -> None:
    assert recall.MADE_FOR.keys() == abuse.ABUSE.keys()
    assert set(recall.CHOSEN_ON) < abuse.ABUSE.keys()
    assert set[str]().union(*recall.MADE_FOR.values()) < set(RISK_REASONS)


@pytest.mark.parametrize(("hits", "of", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 20, 0.0, 0.1611)])
def test_wilson_intervals_are_those_of_the_book(hits: int, of: int, low: float, high: float) -> None:
    assert recall.wilson(hits, of) == pytest.approx([hits / of, low, high], abs=1e-4)


def test_the_bot_like_are_many_hits_in_a_hurry_before_the_test_slice() -> None:
    gaps = {0: (120, 500), 1: (120, 5_000), 2: (90, 500), 3: (120, 500)}
    visitor, time = [], []
    for name, (count, gap) in gaps.items():
        start = TEST if name == 3 else START
        visitor += [name] * count
        time += [start + gap * number for number in range(count)]
    order = np.argsort(time, kind="stable")
    n = len(time)
    events = Events(
        visitor=np.array(visitor)[order],
        session=np.zeros(n, np.int64),
        time_ms=np.array(time)[order],
        kind=np.ones(n, np.int64),
        instant=np.ones(n, np.bool_),
        purchase=np.zeros(n, np.bool_),
    )
    assert risk.bot_like(events).tolist() == [True, False, False, False]
