"""Deletion curves of a scorer that is known, and of a model with a planted cause."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.unit.explain import planted
from tests.unit.scoring import making
from worker import facts, window
from worker.explain import codes
from worker.explain.faithfulness import METHODS, deletion, document, estimate, study, tables
from worker.explain.scorer import Scorer
from worker.scores import REASONS
from worker.scoring import reasons
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle

WORTH = {0: 4.0, 1: -1.0, 2: 2.0, 3: 0.0}
"""What an event adds to the logit, by the number of its page."""


class Additive:
    """Scores a window by the sum of its events' worth: deletion curves can be said beforehand."""

    def __init__(self, pages: dict[int, int]) -> None:
        self.pages = pages

    def logits(self, windows: Sequence[bytes]) -> np.ndarray:
        sums = []
        for encoded in windows:
            at = window.ROWS_AT
            rows = [window.ROW.unpack_from(encoded, at + place * window.ROW.size) for place in range(encoded[2])]
            sums.append(sum(WORTH[self.pages[row[3]]] for row in rows))
        return np.array(sums)[:, None]


def additive() -> tuple[Scorer, bytes]:
    events = [making.event(n, event_time=making.START_MS + n, page=f"/{n}") for n in WORTH]
    pages = {facts.of(event).page: number for number, event in enumerate(events)}
    return cast("Scorer", Additive(pages)), making.window_of(events)


def test_the_areas_are_those_of_a_sum() -> None:
    scorer, encoded = additive()
    true = np.array([WORTH[n] for n in WORTH])
    found = deletion(scorer, [encoded], [true], horizon=0)
    # most supporting first: 0, -4, -6, -6; most opposing first: 0, +1, +1, -1; thirds of the way apart
    assert found.falls[0] == pytest.approx((4 + 6 + 3) / 3)
    assert found.rises[0] == pytest.approx((1 + 1 - 0.5) / 3)
    wrong = deletion(scorer, [encoded], [-true], horizon=0)
    assert wrong.area[0] == pytest.approx(-found.area[0])
    assert found.falling[[0, -1]] == pytest.approx([0, -6])


def test_an_interval_holds_the_mean_and_narrows() -> None:
    values = np.random.default_rng(2).normal(1.0, 1.0, 1600)
    few, many = estimate(values[:100]), estimate(values)
    assert few.low < few.value < few.high
    assert (many.high - many.low) < 0.4 * (few.high - few.low)


def test_a_study_of_a_planted_cause(driven: Bundle) -> None:
    windows = [one for one in planted.windows(120, seed=11) if planted.drivers(one).any() and one[2] >= 6][:30]
    found = study(driven, windows, horizon=1)
    assert tuple(found.curves) == METHODS
    gain = {
        method: estimate(curves.area - found.curves["random"].area)
        for method, curves in found.curves.items()
        if method != "random"
    }
    assert gain["occlusion"].low > 0
    assert gain["integrated gradients"].low > 0
    random = estimate(found.curves["random"].area)
    assert random.low < 0.2
    assert estimate(found.agreement["occlusion", "integrated gradients"]).low > 0.3
    assert abs(estimate(found.agreement["occlusion", "random"]).value) < 0.25
    result = document(found)
    assert result["windows"] == 30
    assert set(result["deletion"]) == set(METHODS)
    assert all(table.row_count == 4 for table in tables(found))


def test_a_code_is_worth_what_its_events_are(driven: Bundle) -> None:
    windows = planted.windows(150, seed=12)
    held = [one for one in windows if planted.drivers(one).any()]
    found = codes.worth(Scorer(driven), windows, horizon=1)
    _, falls = found["cart_added"]
    assert len(falls) == len([one for one in held if not planted.drivers(one).all()])
    slope = float(driven.calibration.slopes[1])
    number = np.mean([planted.drivers(one).sum() for one in held])
    assert falls.mean() == pytest.approx(slope * number, rel=0.3)
    assert abs(found["search_used"][1].mean()) < 0.3
    assert codes.agreement({"cart_added": (1.0, falls)}).mean() > 0.95
    assert codes.agreement({"cart_added": (-1.0, falls)}).mean() < 0.05


def test_weights_by_worth_have_the_sign_of_what_the_model_does(driven: Bundle) -> None:
    """Even where the bundle's own say the contrary."""
    wrong = -np.abs(driven.surrogate.weights)
    misled = replace(driven, surrogate=replace(driven.surrogate, weights=wrong))
    found = codes.weighed(misled, planted.windows(300, seed=13), horizon=1)
    slope = float(driven.calibration.slopes[1])
    assert found.weights[REASONS.index("cart_added")] == pytest.approx(1.6 * slope, rel=0.4)
    assert abs(found.weights[REASONS.index("search_used")]) < 0.3
    assert 0.5 < found.r2 < 1


def test_codes_that_are_rare_keep_the_weights_of_the_fit(driven: Bundle) -> None:
    few = planted.windows(codes.LEAST - 1, seed=14)
    fitted = reasons.fit(reasons.facts(Batch.of(few)), Scorer(driven).logits(few)[:, 1])
    assert codes.weighed(driven, few, horizon=1).weights == pytest.approx(fitted.weights)


def test_a_code_of_the_session_stands_for_its_events_alone() -> None:
    """A cart of the session before is no part of it: pages 0 and 1 are put in, 2 is looked at."""
    events = [
        making.event(
            n, event_time=making.START_MS + n, type=kind, page=f"/{n}", session_id="before" if n == 0 else "now"
        )
        for n, kind in enumerate(["add_to_cart", "add_to_cart", "page_view"])
    ]
    scorer: Any = Additive({facts.of(event).page: number for number, event in enumerate(events)})
    scorer.bundle = SimpleNamespace(surrogate=SimpleNamespace(weights=np.zeros(len(REASONS))))
    found = codes.worth(scorer, [making.window_of(events)], horizon=0)
    assert {code: falls.tolist() for code, (_, falls) in found.items()} == {"cart_added": [WORTH[1]]}
