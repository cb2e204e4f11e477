"""The score's own parts; the whole of it is held to its schema by the contract tests."""

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from worker import scores
from worker.events import MAX_TIME_MS

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@given(st.integers(0, MAX_TIME_MS))
def test_a_time_is_written_as_the_standard_library_does(time_ms: int) -> None:
    expected = (EPOCH + dt.timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds")
    assert scores.rfc3339(time_ms) == expected.replace("+00:00", "Z")
