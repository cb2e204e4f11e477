"""The window rule, case by case; the codec's bounds. Any sequence at all is in `tests/property`."""

import struct

import pytest
from msgspec import structs

from worker import facts, window
from worker.errors import Fatal
from worker.events import Context, Event
from worker.window import Outcome, Rules

RULES = Rules()
MINUTE = 60_000
DAY = 86_400_000
T = 1_700_000_000_000

Step = tuple[str, int]


def play(steps: list[Step]) -> tuple[list[Outcome], bytes]:
    """Fold (event id, time) in this order; the outcomes and the last window."""
    outcomes, state = [], None
    for event_id, time_ms in steps:
        event = Event(event_id=event_id, user_id="u", event_time=time_ms, type="view_item")
        folded = window.fold(state, facts.of(event), rules=RULES)
        state = folded.window
        outcomes.append(folded.outcome)
    assert state is not None
    return outcomes, state


def order(state: bytes) -> list[int]:
    """Times of the kept events, relative to T."""
    return [row.time_ms - T for row in window.view(state).rows]


FOLDED, DUPLICATE, LATE = Outcome.FOLDED, Outcome.DUPLICATE, Outcome.LATE


@pytest.mark.parametrize(
    ("steps", "outcomes", "kept"),
    [
        pytest.param([("a", T)], [FOLDED], [0], id="first"),
        pytest.param([("a", T), ("b", T + 1)], [FOLDED, FOLDED], [0, 1], id="in order"),
        pytest.param([("a", T), ("b", T - 5)], [FOLDED, FOLDED], [-5, 0], id="disordered"),
        pytest.param([("a", T), ("a", T)], [FOLDED, DUPLICATE], [0], id="duplicate"),
        pytest.param([("a", T), ("a", T + 5)], [FOLDED, DUPLICATE], [0], id="same id at another time"),
        pytest.param([("a", T), ("b", T - 10 * MINUTE)], [FOLDED, FOLDED], [-10 * MINUTE, 0], id="just not late"),
        pytest.param([("a", T), ("b", T - 10 * MINUTE - 1)], [FOLDED, LATE], [0], id="late"),
        pytest.param([("a", T), ("b", T - DAY), ("b", T)], [FOLDED, LATE, FOLDED], [0, 0], id="a late id is not spent"),
        pytest.param([("a", T), ("a", T - DAY)], [FOLDED, DUPLICATE], [0], id="duplicate before late"),
        pytest.param([("a", T), ("b", T + 30 * DAY)], [FOLDED] * 2, [0, 30 * DAY], id="30 days are kept"),
        pytest.param([("a", T), ("b", T + 30 * DAY + 1)], [FOLDED] * 2, [30 * DAY + 1], id="over 30 days are not"),
        pytest.param(
            [("a", T), ("b", T + 31 * DAY), ("a", T + 31 * DAY)],
            [FOLDED, FOLDED, DUPLICATE],
            [31 * DAY],
            id="an id outlives its event",
        ),
    ],
)
def test_rule(steps: list[Step], outcomes: list[Outcome], kept: list[int]) -> None:
    seen, state = play(steps)
    assert seen == outcomes
    assert order(state) == kept


def test_ties_stand_in_order_of_arrival() -> None:
    _, state = play([("a", T), ("b", T), ("c", T)])
    ids = [facts.of(Event(event_id=name, user_id="u", event_time=T, type="x")).id for name in "abc"]
    assert [row.id for row in window.view(state).rows] == ids


def test_the_newest_64_are_kept() -> None:
    _, state = play([(f"e{n}", T + n) for n in range(70)])
    assert order(state) == list(range(6, 70))


def test_an_old_event_that_is_evicted_at_once_is_remembered() -> None:
    full = [(f"e{n}", T + n) for n in range(64)]
    outcomes, state = play([*full, ("old", T - 1), ("old", T - 1)])
    assert outcomes[-2:] == [FOLDED, DUPLICATE]
    assert order(state) == list(range(64))


@pytest.mark.parametrize(("distance", "outcome"), [(127, DUPLICATE), (128, FOLDED)])
def test_the_last_128_ids_are_remembered(distance: int, outcome: Outcome) -> None:
    outcomes, _ = play([("x", T), *((f"e{n}", T + n) for n in range(distance)), ("x", T + 1000)])
    assert outcomes[-1] is outcome


def test_ids_are_compared_whole() -> None:
    """Two neighbouring ids hold a third one's bytes across their border; that one is no duplicate."""
    base = facts.of(Event(event_id="a", user_id="u", event_time=T, type="x"))
    state = None
    for number in (0x0000000100000002, 0x0000000300000004):
        state = window.fold(state, structs.replace(base, id=number), rules=RULES).window
    assert window.fold(state, structs.replace(base, id=0x0000000200000003), rules=RULES).outcome is FOLDED


def test_a_view_tells_every_fact_in_its_place() -> None:
    """The widest that each place of a row holds, beside the narrowest."""
    context = struct.pack("<7IH", *range(1, 8), 9)
    wide = facts.Facts(2**64 - 1, T, 255, 2**32 - 1, 2**32 - 2, 2**32 - 3, 2**24 - 1, 2**16 - 1, context)
    least = facts.Facts(1, T + 1, 1, 2, 3, 4, 5, 6, facts.NO_CONTEXT)
    state = None
    for event in (wide, least):
        state = window.fold(state, event, rules=RULES).window
    assert state is not None
    assert window.view(state) == window.View(
        newest_ms=T + 1,
        context=(0,) * 8,
        rows=(
            window.Row(2**64 - 1, T, 2**32 - 1, 2**32 - 2, 2**32 - 3, 255, 2**24 - 1, 2**16 - 1),
            window.Row(1, T + 1, 2, 3, 4, 1, 5, 6),
        ),
        recent=(2**64 - 1, 1),
    )
    assert window.view(window.fold(None, wide, rules=RULES).window).context == (*range(1, 8), 9)


def test_sizes() -> None:
    for count in (200, 201):
        _, state = play([(f"e{n}", T + n) for n in range(count)])
        assert len(state) == 2474  # a full window, in order: under 2.5 KB
    _, state = play([(f"e{n}", T + n) for n in range(8)])
    assert len(state) < 300
    ahead = [(f"a{n}", T + 9 * MINUTE + n) for n in range(63)]
    _, state = play([*ahead, *((f"b{n}", T) for n in range(200))])
    assert len(state) <= window.MAX_BYTES


@pytest.mark.parametrize(
    ("visits", "channel"),
    [
        pytest.param([("s1", 0, "ads"), ("s1", 1, "mail")], "ads", id="a session's first stays"),
        pytest.param([("s1", 0, None), ("s1", 1, "mail")], "mail", id="the first that is not empty"),
        pytest.param([("s1", 0, "ads"), ("s2", 1, "mail")], "mail", id="a newer session brings its own"),
        pytest.param([("s1", 0, "ads"), ("s2", 1, None)], None, id="even when that is none"),
        pytest.param([("s1", 0, "ads"), ("s2", 0, "mail")], "mail", id="of two at one time the later to come is newer"),
        pytest.param([("s1", 0, "ads"), ("s0", -1, "mail")], "ads", id="an older session's does not count"),
        pytest.param([("s1", 0, None), ("s1", -1, "mail")], "mail", id="a disordered event of the same session counts"),
    ],
)
def test_context(visits: list[tuple[str, int, str | None]], channel: str | None) -> None:
    state = None
    for number, (session, after, name) in enumerate(visits):
        context = Context(channel=name) if name else None
        event = Event(
            event_id=str(number), user_id="u", event_time=T + after, type="x", session_id=session, context=context
        )
        state = window.fold(state, facts.of(event), rules=RULES).window
    assert state is not None
    assert window.view(state).context[0] == facts.hash32(channel)


def test_limits_in_seconds_are_taken_to_the_nearest_ms() -> None:
    """1.001 x 1000 is 1000.99..., which must not become 1000 in one place and 1001 in another."""
    rules = Rules.of_seconds(max_lateness_s=1.001, expire_after_s=3600)
    assert (rules.max_lateness_ms, rules.expire_after_ms) == (1001, 3_600_000)


@pytest.mark.parametrize("silence", [35 * DAY, 35 * DAY + 1])
def test_expiry_is_judged_by_the_partitions_event_time(silence: int) -> None:
    _, state = play([("a", T)])
    gone = silence > 35 * DAY
    assert window.expired(state, clock_ms=T + silence, rules=RULES) is gone
    event = facts.of(Event(event_id="b", user_id="u", event_time=T + 1, type="view_item"))
    assert order(window.fold(state, event, rules=RULES, clock_ms=T + silence).window) == ([1] if gone else [0, 1])
    assert order(play([("a", T), ("b", T + silence)])[1]) == ([silence])  # by itself a user is the newest


def test_who_starts_afresh_has_neither_duplicates_nor_late_events() -> None:
    outcomes, state = play([("a", T), ("a", T + 36 * DAY), ("b", T)])
    assert outcomes == [FOLDED, FOLDED, LATE]
    event = facts.of(Event(event_id="a", user_id="u", event_time=T - DAY, type="view_item"))
    folded = window.fold(state, event, rules=RULES, clock_ms=T + 72 * DAY)
    assert (folded.outcome, order(folded.window)) == (FOLDED, [-DAY])


_, GOOD = play([("a", T), ("b", T + 1)])
_, PERMUTED = play([("a", T), ("b", T - 1)])


def of_its_size(n_ids: int, n_rows: int, flags: int = 0) -> bytes:
    """What is as long as its header says, whatever that is."""
    size = n_rows * window.ROW.size + n_ids * 8 + (n_rows if flags else 0)
    return window.HEADER.pack(window.VERSION, n_ids, n_rows, flags, T) + facts.NO_CONTEXT + bytes(size)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:-1], id="cut"),
        pytest.param(GOOD + b"\0", id="longer"),
        pytest.param(b"\x02" + GOOD[1:], id="other version"),
        pytest.param(GOOD[:2] + b"\x00" + GOOD[3:], id="fewer rows"),
        pytest.param(of_its_size(2, 0), id="no rows"),
        pytest.param(of_its_size(1, 2), id="more rows than ids"),
        pytest.param(of_its_size(65, 65), id="more rows than are kept"),
        pytest.param(of_its_size(2, 2, flags=2), id="unknown flag"),
        pytest.param(b"\xff" * 200, id="noise"),
    ],
)
def test_neither_fold_nor_expiry_takes_what_fold_did_not_write(damaged: bytes) -> None:
    event = facts.of(Event(event_id="z", user_id="u", event_time=T, type="x"))
    with pytest.raises(Fatal, match="damaged"):
        window.fold(damaged, event, rules=RULES)
    with pytest.raises(Fatal, match="damaged"):  # a sweep would delete what it takes for expired
        window.expired(damaged, clock_ms=1 << 50, rules=RULES)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(PERMUTED[:-1] + PERMUTED[-2:-1], id="one id twice"),
        pytest.param(PERMUTED[:-1] + b"\x02", id="an id that is not there"),
        pytest.param(GOOD[:4] + bytes(8) + GOOD[12:], id="newest is not the last"),
        pytest.param(GOOD[:42] + b"\0\0\0\0" + GOOD[46:], id="times that do not fit"),
    ],
)
def test_view_refuses_what_fold_cannot_have_written(damaged: bytes) -> None:
    with pytest.raises(Fatal, match="damaged"):
        window.view(damaged)
