"""Aggregates, reason facts and the risk rule, against plain Python."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tests.unit.scoring import making
from worker import window
from worker.events import KINDS, Event, Item
from worker.scores import NO_REASON, REASONS, RISK_REASONS
from worker.scoring import reasons, risk
from worker.scoring.aggregates import NAMES, aggregates
from worker.scoring.batch import Batch
from worker.scoring.reasons import Surrogate

MINUTE = 60_000


def by_hand(encoded: bytes) -> dict[str, float]:
    """Those that a person would check first."""
    rows = window.view(encoded).rows
    newest = rows[-1]
    now = []
    for row in reversed(rows):
        if row.session != newest.session:
            break
        now.append(row)
    bought = max((at for at, row in enumerate(rows) if KINDS[row.kind] == "purchase"), default=-1)
    since = rows[bought + 1 :]
    result = {
        "events": len(rows),
        "session_events": len(now),
        "session_seconds": (newest.time_ms - now[-1].time_ms) / 1000,
        "items": len({row.item for row in rows} - {0}),
        "session_pages": len({row.page for row in now} - {0}),
        "sessions": 1 + sum(a.session != b.session for a, b in pairwise(rows)),
        "highest_price": max(row.price_cents for row in rows) / 100,
        "cart_price": sum(row.price_cents for row in since if KINDS[row.kind] == "add_to_cart") / 100,
        "events_since_purchase": len(since),
    }
    for number, kind in enumerate(KINDS):
        result[f"{kind}_count"] = sum(row.kind == number for row in rows)
        result[f"{kind}_session_count"] = sum(row.kind == number for row in now)
        ages = [newest.time_ms - row.time_ms for row in rows if row.kind == number]
        result[f"{kind}_seconds_ago"] = min(ages) / 1000 if ages else 40 * 86_400
    return {name: math.log1p(value) for name, value in result.items()}


def test_aggregates_are_those_of_a_plain_loop() -> None:
    windows = making.random_windows(60, seed=21)
    table = aggregates(Batch.of(windows))
    assert table.shape == (60, len(NAMES))
    assert np.isfinite(table).all()
    for row, encoded in zip(table, windows, strict=True):
        for name, value in by_hand(encoded).items():
            assert row[NAMES.index(name)] == pytest.approx(value, abs=1e-5), name


def test_aggregates_do_not_depend_on_the_neighbours() -> None:
    windows = making.random_windows(40, seed=22)
    alone = np.concatenate([aggregates(Batch.of([encoded])) for encoded in windows])
    assert np.array_equal(alone, aggregates(Batch.of(windows)))


def story(*kinds: str, gap_ms: int = 30_000, session: str = "s", item: str = "x") -> list[Event]:
    return [
        making.event(
            number,
            type=kind,
            event_time=making.START_MS + number * gap_ms,
            session_id=session,
            page=f"/{kind}",
            items=(Item(item_id=item),) if kind in {"view_item", "add_to_cart"} else (),
        )
        for number, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("events", "held"),
    [
        pytest.param(story("page_view"), {"fresh_session"}, id="first page"),
        pytest.param(story("view_item", "add_to_cart"), {"fresh_session", "cart_added"}, id="cart"),
        pytest.param(story("view_item", "page_view", "view_item"), {"fresh_session", "item_viewed_again"}, id="again"),
        pytest.param(
            story("page_view", "search", "view_cart", "begin_checkout", "add_payment_info"),
            {"search_used", "checkout_started", "payment_info_added"},
            id="checkout",
        ),
        pytest.param(story("page_view", "page_view", gap_ms=11 * MINUTE), {"fresh_session", "long_idle"}, id="idle"),
        pytest.param(
            [*story("add_to_cart"), making.event(9, event_time=making.START_MS + 86_400_000, session_id="t")],
            {"fresh_session", "long_idle", "returning_visitor"},
            id="a cart of another session is no reason now",
        ),
    ],
)
def test_facts_behind_reasons(events: list[Event], held: set[str]) -> None:
    row = reasons.facts(Batch.of([making.window_of(events)]))[0]
    assert {code for code, holds in zip(REASONS, row, strict=True) if holds} == held


def test_the_surrogate_finds_the_weights_that_made_the_logits() -> None:
    rng = np.random.default_rng(0)
    held = rng.random((500, len(REASONS))) < 0.4
    held[:, 3] = False
    weights = rng.normal(size=len(REASONS))
    fitted = reasons.fit(held, held @ weights - 2.0)
    weights[3] = 0.0
    assert fitted.weights == pytest.approx(weights, abs=1e-4)
    assert fitted.intercept == pytest.approx(-2.0, abs=1e-6)
    assert fitted.r2 == pytest.approx(1.0)


def test_the_weightiest_reasons_come_first_and_empty_places_are_marked() -> None:
    weights = np.zeros(len(REASONS), np.float32)
    weights[REASONS.index("cart_added")] = 0.5
    weights[REASONS.index("fresh_session")] = -2.0
    surrogate = Surrogate(weights=weights, intercept=0.0, r2=1.0)
    batch = Batch.of([making.window_of(story("view_item", "add_to_cart"))])
    codes, given = reasons.top(batch, surrogate)
    assert codes.tolist() == [[REASONS.index("fresh_session"), REASONS.index("cart_added"), NO_REASON]]
    assert given.tolist() == [[-2.0, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("events", "codes"),
    [
        pytest.param(story("page_view", "view_item", "add_to_cart", gap_ms=20_000), set(), id="a person"),
        pytest.param(
            story(*["page_view", "view_item"] * 20, gap_ms=200), {"burst", "machine_pace", "no_dwell"}, id="bot"
        ),
        pytest.param(story(*["view_item"] * 30, gap_ms=5_000), {"repetition"}, id="the same page over and over"),
        pytest.param(story(*["page_view", "view_item"] * 12, gap_ms=1_500), {"no_dwell"}, id="nothing is read"),
    ],
)
def test_risk_signs(events: list[Event], codes: set[str]) -> None:
    score, mask = risk.risk(Batch.of([making.window_of(events)]))
    assert {code for bit, code in enumerate(RISK_REASONS) if mask[0] >> bit & 1} == codes
    assert 0 <= score[0] <= 1
    assert (score[0] > 0.2) == bool(codes)


def test_risk_and_reasons_do_not_depend_on_the_neighbours() -> None:
    windows = [*making.random_windows(30, seed=23), making.window_of(story(*["view_item"] * 30, gap_ms=100))]
    together = risk.risk(Batch.of(windows))
    for at, encoded in enumerate(windows):
        score, mask = risk.risk(Batch.of([encoded]))
        assert (score[0], mask[0]) == (together[0][at], together[1][at])
    held = reasons.facts(Batch.of(windows))
    assert np.array_equal(held, np.concatenate([reasons.facts(Batch.of([encoded])) for encoded in windows]))
