"""Dead letters read back, and which of them are worth sending again."""

import dataclasses

import pytest

from worker import deadletter, events
from worker.dlq.letters import Letter, escaped, parse, printable
from worker.dlq.redrive import obstacle
from worker.events import MAX_AHEAD_MS, Event
from worker.replay.tape import Played
from worker.scores import Headers

NOW_MS = 1_700_000_000_000


def letter(**changes: object) -> Letter:
    event = Event(event_id="e", user_id="ann", event_time=NOW_MS, type="view_item")
    whole = Letter(
        id="2:7",
        time_ms=NOW_MS,
        topic="events",
        partition=3,
        offset=41,
        stage="decode",
        reason="future",
        message="too far ahead",
        key=b"ann",
        value=events.encode(event),
        headers=[],
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]  # a table of mixed fields


def test_what_the_worker_writes_is_read_back() -> None:
    original: Headers = [("trace", b"abc"), ("trace", b"def")]
    headers = deadletter.headers(
        original,
        topic="events",
        partition=3,
        offset=41,
        timestamp_ms=NOW_MS,
        stage="decode",
        reason="json",
        message="not JSON: é",
    )
    read = parse(Played(7, NOW_MS + 500, b"ann", b"{", headers), partition=2)
    assert read == letter(reason="json", message="not JSON: é", value=b"{", headers=original)
    assert read.source == "events-3-41"


def test_what_others_write_is_read_too() -> None:
    headers = [(f"{deadletter.PREFIX}partition", b"-3"), (f"{deadletter.PREFIX}topic", b"\xff"), ("x", b"")]
    read = parse(Played(7, NOW_MS, None, None, headers), partition=2)
    assert (read.topic, read.partition, read.offset, read.reason, read.headers) == ("\ufffd", -1, -1, "", [("x", b"")])


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        pytest.param(NOW_MS, "2023-11-14T22:13:20.000Z", id="a time"),
        pytest.param(NOW_MS * 1000, "1700000000000000 ms", id="microseconds for milliseconds"),
    ],
)
def test_any_timestamp_is_shown(time_ms: int, text: str) -> None:
    assert letter(time_ms=time_ms).time == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(None, "(none)", id="none"),
        pytest.param(b"", "", id="empty"),
        pytest.param('{"a": "é✓"}'.encode(), '{"a": "é✓"}', id="readable"),
        pytest.param(b"\x1b[2Jgone", r"\x1b[2Jgone", id="a terminal's control sequence"),
        pytest.param(b"a\n\x00\x7f", r"a\n\x00\x7f", id="control characters"),
        pytest.param(b"\xff\xfe{", r"\xff\xfe{", id="no UTF-8"),
        pytest.param(rb"\x1b", r"\\x1b", id="a backslash is told from an escape"),
        pytest.param("a\u202eb".encode(), r"a\u202eb", id="text that would run backwards"),
    ],
)
def test_bytes_are_shown_safely(raw: bytes | None, text: str) -> None:
    assert escaped(raw) == text


def test_text_from_headers_cannot_steer_a_terminal() -> None:
    assert printable("bad\x1b]0;title\x07") == r"bad\x1b]0;title\x07"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({}, None, id="valid now"),
        pytest.param({"reason": "future"}, None, id="was ahead, no longer is"),
        pytest.param({"value": b"{"}, "json", id="still no JSON"),
        pytest.param({"value": None}, "empty", id="still empty"),
        pytest.param({"key": b"bob"}, "wrong_key", id="still under another's key"),
        pytest.param({"reason": "late"}, "late", id="late stays late"),
        pytest.param({"topic": ""}, "no_source", id="nobody knows where it came from"),
        pytest.param({"partition": -1}, "no_source", id="nor which partition"),
    ],
)
def test_obstacles(changes: dict[str, object], why: str | None) -> None:
    assert obstacle(letter(**changes), now_ms=NOW_MS) == why


def test_an_event_still_ahead_waits() -> None:
    assert obstacle(letter(), now_ms=NOW_MS - MAX_AHEAD_MS - 1) == "future"
