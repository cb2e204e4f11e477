"""Aggregates, reason facts and the risk rule, against plain Python."""

import datetime as dt
import math
from itertools import groupby, pairwise

import numpy as np
import pytest

from tests.unit.scoring import making
from worker import window
from worker.events import KINDS, Event, Item
from worker.scores import NO_REASON, REASONS, RISK_REASONS
from worker.scoring import encode, reasons, risk
from worker.scoring.aggregates import NAMES, aggregates
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.engine import Engine
from worker.scoring.reasons import Surrogate
from worker.training.windows import Windows

MINUTE = 60_000


DAY_S = 86_400
NEVER_S = 40 * DAY_S
PAGES = {"page_view", "view_item_list", "view_item", "view_cart"}


class Plain:
    """One window, looked at row by row. Shares nothing with the code under test but the decoded view."""

    def __init__(self, encoded: bytes) -> None:
        seen = window.view(encoded)
        self.rows, self.visit = seen.rows, seen.context[-1]
        self.kinds = [KINDS[row.kind] for row in self.rows]
        self.opens = [True]
        for a, b in pairwise(self.rows):
            paused = a.session == b.session == 0 and b.time_ms - a.time_ms > 30 * MINUTE
            self.opens.append(a.session != b.session or paused)
        self.opening = max(at for at, opens in enumerate(self.opens) if opens)  # where the newest row's session begins
        self.now = self.rows[self.opening :]
        self.gaps_ms = [b.time_ms - a.time_ms for a, b in pairwise(self.now)]
        self.newest = self.rows[-1]

    def aggregates(self) -> dict[str, float]:
        rows, now, newest = self.rows, self.now, self.newest
        bought = max((at for at, kind in enumerate(self.kinds) if kind == "purchase"), default=-1)
        since = list(zip(rows, self.kinds, strict=True))[bought + 1 :]
        gaps_s = [gap / 1000 for gap in self.gaps_ms]
        pause_s = (now[0].time_ms - rows[self.opening - 1].time_ms) / 1000 if self.opening else NEVER_S
        logarithms: dict[str, float] = {
            "events": len(rows),
            "session_events": len(now),
            "session_seconds": sum(gaps_s),
            "gap_seconds": (newest.time_ms - rows[-2].time_ms) / 1000 if len(rows) > 1 else 0,
            "session_mean_gap_seconds": sum(gaps_s) / max(len(gaps_s), 1),
            "session_longest_gap_seconds": max(gaps_s, default=0),
            "pause_before_session_seconds": pause_s,
            "sessions": sum(self.opens),
            "visit_number": self.visit,
            "newest_price": newest.price_cents / 100,
            "highest_price": max(row.price_cents for row in rows) / 100,
            "cart_price": sum(row.price_cents for row, kind in since if kind == "add_to_cart") / 100,
            "cart_added_since_purchase": sum(kind == "add_to_cart" for _, kind in since),
            "cart_removed_since_purchase": sum(kind == "remove_from_cart" for _, kind in since),
            "checkout_since_purchase": sum(
                kind in {"begin_checkout", "add_payment_info", "review_order"} for _, kind in since
            ),
            "events_since_purchase": len(since),
            "gaps_below_1s": sum(gap < 1 for gap in gaps_s),
            "gaps_over_60s": sum(gap > 60 for gap in gaps_s),
        }
        for name in ("item", "page"):
            mine = getattr(newest, name)
            logarithms[f"{name}s"] = len({getattr(row, name) for row in rows} - {0})
            logarithms[f"session_{name}s"] = len({getattr(row, name) for row in now} - {0})
            logarithms[f"newest_{name}_seen"] = sum(getattr(row, name) == mine != 0 for row in rows)
        for kind in KINDS:
            ages_s = [
                (newest.time_ms - row.time_ms) / 1000 for row, has in zip(rows, self.kinds, strict=True) if has == kind
            ]
            logarithms[f"{kind}_count"] = len(ages_s)
            logarithms[f"{kind}_session_count"] = self.kinds[self.opening :].count(kind)
            logarithms[f"{kind}_seconds_ago"] = min(ages_s, default=NEVER_S)
        time = dt.datetime.fromtimestamp(newest.time_ms / 1000, dt.UTC)
        midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
        turn = 2 * math.pi * ((time - midnight) / dt.timedelta(days=1))
        as_they_are: dict[str, float] = {
            "hour_sine": math.sin(turn),
            "hour_cosine": math.cos(turn),
            "weekend": time.isoweekday() in {6, 7},
        }
        for kind in KINDS:
            as_they_are[f"{kind}_newest"] = self.kinds[-1] == kind
            as_they_are[f"{kind}_before"] = self.kinds[-2:-1] == [kind]
        return {name: math.log1p(value) for name, value in logarithms.items()} | {
            name: float(value) for name, value in as_they_are.items()
        }

    def facts(self) -> set[str]:
        kinds = set(self.kinds[self.opening :])
        viewed = [row.item for row in self.now if KINDS[row.kind] == "view_item" and row.item]
        codes = {
            "purchase_in_window": "purchase" in self.kinds,
            "checkout_started": "begin_checkout" in kinds,
            "payment_info_added": bool({"add_payment_info", "review_order"} & kinds),
            "cart_added": "add_to_cart" in kinds,
            "cart_removed": "remove_from_cart" in kinds,
            "item_viewed_again": len(set(viewed)) < len(viewed),
            "many_item_views": len(set(viewed)) >= 5,
            "search_used": "search" in kinds,
            "returning_visitor": self.visit > 1 or sum(self.opens) > 1,
            "fresh_session": len(self.now) <= 3,
            "long_idle": len(self.rows) > 1 and self.newest.time_ms - self.rows[-2].time_ms > 10 * MINUTE,
            "promotion_selected": "select_promotion" in kinds,
        }
        return {code for code, holds in codes.items() if holds}

    def signs(self) -> dict[str, float]:
        """The table of `worker/scoring/risk.py`, line by line."""
        times = [row.time_ms for row in self.rows]
        burst = max(sum(time - 10_000 <= other for other in times[: at + 1]) for at, time in enumerate(times))
        alike = [len(list(run)) for _, run in groupby((row.kind, row.item, row.page) for row in self.rows)]
        left = [gap for row, gap in zip(self.now, self.gaps_ms, strict=False) if KINDS[row.kind] in PAGES]
        fast = sum(gap < 1_000 for gap in self.gaps_ms) / max(len(self.gaps_ms), 1)
        hurried = sum(gap < 2_000 for gap in left) / max(len(left), 1)
        measured = {
            "burst": (burst - 12) / 28,
            "machine_pace": (fast - 0.6) / 0.35 if len(self.gaps_ms) >= 10 else 0,
            "repetition": (max(alike) - 6) / 18,
            "no_dwell": (hurried - 0.7) / 0.3 if len(left) >= 20 else 0,
        }
        return {sign: min(max(value, 0.0), 1.0) for sign, value in measured.items()}


def haste(rng: np.random.Generator) -> bytes:
    """Fast, repetitive, full of items; in one session, or in none that the shop names. Gaps lie on every bound."""
    kinds = rng.choice(["page_view", "view_item", "view_item", "search"], size=3).tolist()
    gaps = rng.choice(
        [40, 700, 1_000, 2_000, 2_500, MINUTE, 10 * MINUTE, 30 * MINUTE, 40 * MINUTE],
        size=70,
        p=[0.46, 0.2, 0.1, 0.1, 0.07, 0.03, 0.02, 0.01, 0.01],
    )
    session = {"session_id": "s"} if rng.random() < 0.7 else {}
    shown = rng.integers(1, 9)
    events = []
    for number, time in enumerate((making.START_MS + np.cumsum(gaps))[: rng.integers(1, 70)].tolist()):
        items = (Item(item_id=f"sku{rng.integers(shown)}"),) if rng.random() < 0.5 else ()
        kind = kinds[rng.integers(len(kinds))]
        events.append(making.event(number, type=kind, event_time=time, page="/p", items=items, **session))
    return making.window_of(events)


def many() -> list[bytes]:
    rng = np.random.default_rng(20)
    return [*making.random_windows(120, seed=21), *(haste(rng) for _ in range(60))]


def test_aggregates_are_those_of_a_plain_loop() -> None:
    windows = many()
    table = aggregates(Batch.of(windows))
    assert table.shape == (len(windows), len(NAMES))
    assert table.dtype == np.float32
    for row, encoded in zip(table.tolist(), windows, strict=True):
        expected = Plain(encoded).aggregates()
        assert expected.keys() == set(NAMES)
        assert dict(zip(NAMES, row, strict=True)) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_facts_are_those_of_a_plain_loop() -> None:
    windows = many()
    held = reasons.facts(Batch.of(windows))
    for row, encoded in zip(held, windows, strict=True):
        assert {code for code, holds in zip(REASONS, row, strict=True) if holds} == Plain(encoded).facts()
    assert held.any(axis=0).all()
    assert not held.all(axis=0).any()


def test_risk_is_that_of_a_plain_loop() -> None:
    windows = many()
    scores, masks = risk.risk(Batch.of(windows))
    for score, mask, encoded in zip(scores.tolist(), masks.tolist(), windows, strict=True):
        signs = Plain(encoded).signs()
        assert score == pytest.approx(1 - math.prod(1 - value for value in signs.values()), rel=1e-6, abs=1e-7)
        assert mask == sum((signs[code] >= risk.SHOWN) << RISK_REASONS.index(code) for code in risk.RULE)
    assert len(set(masks.tolist())) > 4


def test_the_top_reasons_are_those_of_a_plain_sort() -> None:
    rng = np.random.default_rng(5)
    batch = Batch.of(many())
    weights = rng.choice([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0], len(REASONS)).astype(np.float32)  # with equals
    codes, chosen = reasons.top(batch, Surrogate(weights=weights, intercept=0.0, r2=1.0))
    for held, mine, given in zip(reasons.facts(batch), codes.tolist(), chosen.tolist(), strict=True):
        found = [(code, float(weights[code])) for code in np.flatnonzero(held).tolist() if weights[code]]
        found.sort(key=lambda reason: -abs(reason[1]))
        found = [*found, *[(NO_REASON, 0.0)] * reasons.TOP][: reasons.TOP]
        assert list(zip(mine, given, strict=True)) == found


def test_training_and_serving_see_the_same_values(bundle: Bundle) -> None:
    """A window cut off behind its rows, as training keeps it, and as it comes from the stream."""
    whole = many()
    cut = [encoded[: window.ROWS_AT + window.length(encoded) * window.ROW.size] for encoded in whole]
    content = np.frombuffer(b"".join(cut), np.uint8)
    kept = Windows(content, np.cumsum([len(encoded) for encoded in cut]))
    places = np.random.default_rng(6).permutation(len(whole))
    trained, served = Batch.of(kept.take(places)), Batch.of([whole[place] for place in places])
    assert np.array_equal(aggregates(trained), aggregates(served))
    assert np.array_equal(encode.tokens(trained, bundle.vocabulary), encode.tokens(served, bundle.vocabulary))
    assert np.array_equal(encode.contexts(trained, bundle.vocabulary), encode.contexts(served, bundle.vocabulary))
    assert np.array_equal(reasons.facts(trained), reasons.facts(served))
    with Engine(lambda: bundle, device="cpu", threads=1) as engine:
        scores = engine.score_now(kept.take(places))
        assert np.array_equal(scores.intent, engine.score_now([whole[place] for place in places]).intent)


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
