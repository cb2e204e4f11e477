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
        (b"k", b"v" * 14 * MEGABYTES, [("empty", b"")]),
        (b"k", b"v" * (15 * MEGABYTES - 1), []),
    ],
    ids=["small", "nothing", "large", "the largest"],
)
def test_what_fits_is_kept_as_it_came(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    assert deadletter.bounded(key, value, headers) == (key, value, headers)


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"k", b"v" * 15 * MEGABYTES, []),
        (b"k" * 16 * MEGABYTES, b"v", []),
        (b"k", None, [("h", b"x" * MEGABYTES)] * 16),
        (b"k", b"v", [("h" * MEGABYTES, b"")] * 16),
        (b"k", b"v", [("✓" * MEGABYTES, b"")] * 6),
    ],
    ids=["value", "key", "headers", "header names", "header names of three bytes a character"],
)
def test_what_does_not_fit_is_cut_and_says_so(key: bytes, value: bytes | None, headers: Headers) -> None:
    cut_key, cut_value, said = deadletter.bounded(key, value, headers)
    assert cut_key is not None
    assert key.startswith(cut_key)
    assert (cut_value is None) == (value is None)
    assert (value or b"").startswith(cut_value or b"")
    assert len(cut_key) + len(cut_value or b"") < MEGABYTES
    assert cut_value == value or len(cut_value or b"") > events.MAX_VALUE_BYTES  # sent again, it is refused again
    ((name, size),) = said
    assert name == deadletter.CUT
    assert int(size or 0) > 15 * MEGABYTES


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
