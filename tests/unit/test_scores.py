"""The score's own parts; the whole of it is held to its schema by the contract tests."""

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import facts, scores, window
from worker.events import MAX_TIME_MS, Event

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@given(st.integers(0, MAX_TIME_MS))
def test_a_time_is_written_as_the_standard_library_does(time_ms: int) -> None:
    expected = (EPOCH + dt.timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds")
    assert scores.rfc3339(time_ms) == expected.replace("+00:00", "Z")


def test_a_score_says_all_that_it_rests_on() -> None:
    """Of an event that came late: the window's own times are others."""
    newest = Event("e1", "ann", 1_470_034_800_000, "view_item")
    late = Event("e2", "ann", 1_470_034_799_500, "page_view", session_id="s")
    encoded = None
    for event in (newest, late):
        encoded = window.fold(encoded, facts.of(event), rules=window.Rules()).window
    assert encoded is not None
    reasons = (scores.Reason("cart_added", 0.5), scores.Reason("promotion_selected", -0.25))
    risk = scores.Risk(0.5, ("machine_pace", "overlapping_sessions"))
    rating = scores.Rating(scores.Intent(0.1, 0.2, 0.3), risk, reasons, scores.Model("shop", "1"))
    value = scores.encode(late, encoded, rating, topic="t", partition=2, offset=7, scored_at="now")
    assert json.loads(value) == {
        "score_id": "t-2-7",
        "event_id": "e2",
        "user_id": "ann",
        "session_id": "s",
        "event_time": "2016-08-01T06:59:59.500Z",
        "source": {"topic": "t", "partition": 2, "offset": 7},
        "intent": {"purchase_30m": 0.1, "purchase_24h": 0.2, "purchase_7d": 0.3},
        "risk": {"score": 0.5, "reasons": ["machine_pace", "overlapping_sessions"]},
        "window": {
            "events": 2,
            "first_event_time": "2016-08-01T06:59:59.500Z",
            "last_event_time": "2016-08-01T07:00:00.000Z",
            "digest": window.digest(encoded),
        },
        "model": {"name": "shop", "version": "1"},
        "reasons": [{"code": "cart_added", "weight": 0.5}, {"code": "promotion_selected", "weight": -0.25}],
        "scored_at": "now",
        "schema_version": 1,
    }


@pytest.mark.parametrize("type_", [scores.EVENT_TYPE, scores.SHADOW_TYPE])
def test_a_scores_headers_are_a_cloud_events(type_: str) -> None:
    assert scores.headers("t-2-7", source="intent", scored_at="now", type_=type_) == [
        ("ce_id", b"t-2-7"),
        ("ce_specversion", b"1.0"),
        ("ce_type", type_.encode()),
        ("ce_source", b"intent"),
        ("ce_time", b"now"),
        ("content-type", b"application/json"),
    ]
