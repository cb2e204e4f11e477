"""A dead letter holds the record as it came, within what its topic takes."""

import pytest

from worker import deadletter, events
from worker.scores import Headers

MEGABYTES = 1 << 20


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"k", b"v", [("trace", b"1")]),
        (None, None, []),
        (b"k", b"v" * 14 * MEGABYTES, [("empty", b""), ("none", None)]),
        (b"k", b"v" * (15 * MEGABYTES - 1), []),
        (b"k", b"v" * (15 * MEGABYTES - 1 - 1 - 10), [("h", None)]),
    ],
    ids=["small", "nothing", "large", "the largest", "the largest with a header, which takes 10 bytes beside its own"],
)
def test_what_fits_is_kept_as_it_came(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    assert deadletter.bounded(key, value, headers) == (key, value, headers)


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"k", b"v" * 15 * MEGABYTES, []),
        (None, b"v" * (15 * MEGABYTES + 1), []),
        (b"k", b"v" * (15 * MEGABYTES - 1 - 1 - 9), [("h", None)]),
        (b"k" * 16 * MEGABYTES, b"v", []),
        (b"k", None, [("h", b"x" * MEGABYTES)] * 16),
        (b"k", b"v", [("h" * MEGABYTES, b"")] * 16),
        (b"k", b"v", [("✓" * MEGABYTES, b"")] * 6),
    ],
    ids=[
        *("value", "value without a key", "value by the byte of a header", "key"),
        *("headers", "header names", "header names of three bytes a character"),
    ],
)
def test_what_does_not_fit_is_cut_and_says_so(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    cut_key, cut_value, said = deadletter.bounded(key, value, headers)
    assert (cut_key is None) == (key is None)
    assert (key or b"").startswith(cut_key or b"")
    assert bool(cut_key) == bool(key), "of what was there, the beginning"
    assert (cut_value is None) == (value is None)
    assert (value or b"").startswith(cut_value or b"")
    assert len(cut_key or b"") + len(cut_value or b"") < MEGABYTES
    assert cut_value == value or len(cut_value or b"") > events.MAX_VALUE_BYTES  # sent again, it is refused again
    ((name, size),) = said
    assert name == deadletter.CUT
    assert int(size or 0) > 15 * MEGABYTES


@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param("0", 0, id="the least"),
        pytest.param("041", 41, id="with a 0 before it"),
        pytest.param("200", 200, id="the most"),
        pytest.param("201", -1, id="one more"),
        pytest.param("0041", -1, id="longer than the most"),
        pytest.param("-1", -1, id="below 0"),
        pytest.param("", -1, id="nothing"),
        pytest.param("\u00b2", -1, id="a digit that is no number: 2 above the line"),
        pytest.param("\u0663", -1, id="another script's 3"),
    ],
)
def test_a_number_is_plain_digits_within_its_bound(text: str, number: int) -> None:
    assert deadletter.number(text, most=200) == number


def test_the_records_headers_come_first_and_then_why() -> None:
    original: Headers = [("trace", b"1")]
    found = deadletter.headers(
        original,
        topic="events",
        partition=3,
        offset=41,
        timestamp_ms=1_700_000_000_000,
        stage="decode",
        reason="schema",
        message="\ud800" + "x" * 600,
    )
    assert found == [
        ("trace", b"1"),
        ("__connect.errors.topic", b"events"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"41"),
        ("__connect.errors.timestamp", b"1700000000000"),
        ("__connect.errors.stage", b"decode"),
        ("__connect.errors.exception.class.name", b"schema"),
        ("__connect.errors.exception.message", b"?" + b"x" * 499),
    ]
    assert original == [("trace", b"1")]
