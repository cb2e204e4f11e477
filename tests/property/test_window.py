"""The fold against the oracle, for any sequence of events."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import DAY_MS, Partition
from worker import facts, window
from worker.events import Event

MINUTE_MS = 60_000
START_MS = 1_700_000_000_000

# Steps that meet the rules' edges: ties, the lateness limit, the 30-day span, the 35-day expiry, the 2**32 ms wrap.
steps = st.one_of(
    st.integers(-12 * MINUTE_MS, 12 * MINUTE_MS),
    st.sampled_from([0, 0, 1, -1, -10 * MINUTE_MS, -10 * MINUTE_MS - 1, 30 * DAY_MS, 30 * DAY_MS + 1, 50 * DAY_MS]),
    st.integers(0, 60 * DAY_MS),
)
events = st.lists(st.tuples(st.integers(0, 400), steps), min_size=1, max_size=40)


def check(sequence: list[tuple[int, int]]) -> None:
    oracle = Partition()
    state: bytes | None = None
    clock = START_MS
    for number, step in sequence:
        time_ms = max(0, clock + step)
        clock = max(clock, time_ms)
        event = Event(
            event_id=f"e{number}", user_id="u", event_time=time_ms, type="view_item", session_id=f"s{number % 3}"
        )
        rules = window.Rules()
        before = state
        folded = window.fold(state, facts.of(event), rules=rules, clock_ms=clock)
        state = folded.window
        assert folded.outcome.value == oracle.read("u", event.event_id, time_ms)
        if folded.outcome is not window.Outcome.FOLDED:
            assert state is before
        seen = window.view(state)
        user = oracle.users["u"]
        assert [row.time_ms for row in seen.rows] == [time for time, _, _ in user.kept]
        assert len(seen.recent) == min(128, len(user.folded))
        strays = sum(arrival <= oracle.arrivals - 128 for _, arrival, _ in user.kept)
        assert state[1] == len(seen.recent) + strays  # no id is stored that neither rule needs, and none twice
        assert window.digest(state) == oracle.digest("u")
        assert window.newest_ms(state) == user.newest
        assert window.extent(state) == (len(user.kept), user.kept[0][0], user.newest)
        assert len(state) <= window.MAX_BYTES


@given(events)
@settings(max_examples=300, deadline=None)
def test_any_sequence_folds_as_the_oracle_says(sequence: list[tuple[int, int]]) -> None:
    check(sequence)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(-9 * MINUTE_MS, 2 * MINUTE_MS)), min_size=130, max_size=420)
)
@settings(max_examples=40, deadline=None)
def test_long_disordered_sequences_evict_and_forget_as_the_oracle_says(sequence: list[tuple[int, int]]) -> None:
    check(sequence)


@given(st.integers(1, 60), st.integers(150, 300), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_events_kept_longer_than_their_ids_are_remembered(ahead: int, behind: int, repeats: int) -> None:
    """`ahead` events stay the newest while over 128 older ones fold below them; then their ids come again."""
    first = [(n, 9 * MINUTE_MS if n == 0 else 0) for n in range(ahead)]
    below = [(1000 + n, -5 * MINUTE_MS) for n in range(behind)]
    check(first + below + [(n, 0) for n in range(min(ahead, repeats))] + [(5000, 1)])
