"""Decoding: bounded, total, and never anything but `Invalid`. Golden examples are in `tests/contract`."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import events
from worker.errors import Invalid

NOW_MS = 1_700_000_000_000
GOOD = {"event_id": "e", "user_id": "u", "event_time": NOW_MS, "type": "view_item"}


def decode(value: bytes | None, key: bytes | None = b"u") -> events.Event:
    return events.decode(value, key=key, timestamp_ms=NOW_MS)


def written(**fields: object) -> bytes:
    return json.dumps(GOOD | fields).encode()


@pytest.mark.parametrize(
    ("time", "ms"),
    [
        (NOW_MS, NOW_MS),
        ("2023-11-14T22:13:20Z", NOW_MS),
        ("2023-11-14T23:13:20.000+01:00", NOW_MS),
        ("2023-11-14T22:13:19.9999Z", NOW_MS - 1),
        (0, 0),
    ],
)
def test_event_time(time: object, ms: int) -> None:
    event = decode(written(event_time=time))
    assert event.time_ms == event.event_time == ms


def test_registry_framing_is_accepted() -> None:
    assert decode(b"\0\0\0\0\x07" + written()) == decode(written())


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        pytest.param(None, b"u", "empty", id="no value"),
        pytest.param(b"", b"u", "json", id="empty value"),
        pytest.param(b"\0\0\0", b"u", "json", id="framing alone"),
        pytest.param(written()[:-1], b"u", "json", id="cut"),
        pytest.param(b'{"deep":' * 8000, b"u", "json", id="nested deeply"),
        pytest.param(b"\xff", b"u", "json", id="not text"),
        pytest.param(written(page="\ud800"), b"u", "json", id="half a surrogate pair"),
        pytest.param(written().ljust(65_537), b"u", "too_large", id="too large"),
        pytest.param(written(page="x" * 2_049), b"u", "schema", id="long page"),
        pytest.param(written(event_time=True), b"u", "schema", id="boolean time"),
        pytest.param(written(event_time=10**30), b"u", "schema", id="time beyond any"),
        pytest.param(written(event_time="9999-12-31T23:59:59.999-23:59"), b"u", "schema", id="the year 10000 in UTC"),
        pytest.param(written(event_time="1970-01-01T00:00:00+00:01"), b"u", "schema", id="before 1970 in UTC"),
        pytest.param(written(event_time="1969-12-31T23:59:59.999Z"), b"u", "schema", id="1 ms before 1970"),
        pytest.param(written(event_time=NOW_MS + 86_400_001), b"u", "future", id="a day and 1 ms ahead"),
        pytest.param(written(user_id="é" * 129), ("é" * 129).encode(), "schema", id="user of 258 bytes"),
        pytest.param(written(), None, "wrong_key", id="no key"),
        pytest.param(written(), b"v", "wrong_key", id="other key"),
        pytest.param(written()[:-1] + b', "value": NaN}', b"u", "json", id="NaN"),
        pytest.param(written()[:-1] + b', "value": 1e400}', b"u", "schema", id="infinite"),
    ],
)
def test_invalid(value: bytes | None, key: bytes | None, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode(value, key)
    assert caught.value.reason == reason
    assert str(caught.value)


def test_a_record_without_a_timestamp_is_told_as_such_and_not_as_centuries_ahead() -> None:
    with pytest.raises(Invalid, match="has no timestamp") as caught:
        events.decode(written(), key=b"u", timestamp_ms=-1)
    assert caught.value.reason == "future"


def test_a_day_ahead_is_accepted() -> None:
    assert decode(written(event_time=NOW_MS + 86_400_000)).time_ms == NOW_MS + 86_400_000


@pytest.mark.parametrize("time", [events.MAX_TIME_MS, "9999-12-31T23:59:59.999Z", "9999-12-31T18:59:59.999-05:00"])
def test_the_last_millisecond_that_can_be_written_is_accepted(time: object) -> None:
    event = events.decode(written(event_time=time), key=b"u", timestamp_ms=events.MAX_TIME_MS)
    assert event.time_ms == 253_402_300_799_999


def test_the_largest_are_accepted() -> None:
    user = "é" * 128
    assert decode(written(user_id=user).ljust(65_536), user.encode()).user_id == user


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_bytes_give_an_event_or_invalid(value: bytes) -> None:
    with suppress(Invalid):
        decode(value)


_json = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@given(st.dictionaries(st.sampled_from([*GOOD, "items", "context", "value", "session_id"]), _json))
def test_any_field_values_give_an_event_or_invalid(fields: dict[str, object]) -> None:
    try:
        event = decode(written(**fields))
    except Invalid:
        return
    assert decode(events.encode(event)) == event
