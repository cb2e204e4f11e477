import itertools
from collections import Counter, defaultdict

import pytest
from typer.testing import CliRunner

from worker.cli import app
from worker.errors import Invalid, SettingError
from worker.events import Event, decode
from worker.shop.outgoing import Outgoing
from worker.shop.poison import POISONS
from worker.shop.simulate import FAULTS, Crowd, Simulator
from worker.shop.statistics import END, Statistics, load

START_MS = 1_700_000_000_000
STATISTICS = load()


def simulator(crowd: Crowd, *, seed: int = 7, start_ms: int = START_MS) -> Simulator:
    return Simulator(STATISTICS, crowd, seed=seed, start_ms=start_ms)


def take(count: int, crowd: Crowd, *, seed: int = 7, start_ms: int = START_MS) -> list[Outgoing]:
    return list(itertools.islice(simulator(crowd, seed=seed, start_ms=start_ms), count))


def decoded(records: list[Outgoing]) -> list[Event]:
    return [decode(record.value, key=record.key, timestamp_ms=START_MS) for record in records]


def refusal(record: Outgoing) -> str | None:
    try:
        decode(record.value, key=record.key, timestamp_ms=START_MS)
    except Invalid as error:
        return error.reason
    return None


EVERYTHING = Crowd(rate=500, users=400, speed=10, bots=0.05, duplicates=0.03, out_of_order=0.04, late=0.02, poison=0.03)


def test_a_seed_and_a_start_time_decide_every_byte() -> None:
    first = take(3000, EVERYTHING)
    assert take(3000, EVERYTHING) == first
    assert take(3000, EVERYTHING, seed=8) != first
    ids = {event.event_id for event in decoded(take(500, Crowd()))}
    later = {event.event_id for event in decoded(take(500, Crowd(), start_ms=START_MS + 1))}
    assert not ids & later, "two runs into one topic are not duplicates of each other"


def test_events_are_due_in_order_at_the_rate_and_event_time_follows() -> None:
    records = take(20_000, Crowd(rate=1000, speed=5))
    due = [record.due_s for record in records if record.due_s is not None]
    assert due == sorted(due)
    assert len(due) / due[-1] == pytest.approx(1000, rel=0.03)
    for record, event in zip(records, decoded(records), strict=True):
        assert record.due_s is not None
        assert event.time_ms == START_MS + int(record.due_s * 5000)


def test_the_day_has_a_rhythm_of_the_same_mean_when_asked_for() -> None:
    records = take(40_000, Crowd(rate=10, speed=24, daily_rhythm=True))
    per_hour = Counter((record.due_s or 0.0) * 24 // 3600 for record in records)
    full = [per_hour[hour] for hour in range(24)]
    assert max(full) > 3 * min(full)
    assert sum(full) / 3600 == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_event_without_faults_is_valid_and_in_order_for_its_user(seed: int) -> None:
    newest: dict[str, int] = {}
    ids = set()
    for event in decoded(take(20_000, Crowd(rate=200, users=300, speed=10, bots=0.1), seed=seed)):
        assert event.time_ms >= newest.get(event.user_id, 0)
        newest[event.user_id] = event.time_ms
        ids.add(event.event_id)
    assert len(ids) == 20_000


def test_shares_are_kept() -> None:
    shop = simulator(EVERYTHING)
    total = 60_000
    for _ in itertools.islice(shop, total):
        pass
    for name in FAULTS:
        assert shop.sent[name] / total == pytest.approx(getattr(EVERYTHING, name), rel=0.15), name
    assert shop.sent["bot"] / total == pytest.approx(EVERYTHING.bots, rel=0.05)
    assert sum(shop.sent.values()) == total


def test_what_comes_after_the_end_is_neither_made_nor_counted() -> None:
    shop = simulator(EVERYTHING)
    begun = list(shop.before(20.0))
    assert 0 < len(begun) == sum(shop.sent.values())
    assert begun == [record for record in take(len(begun) + 1, EVERYTHING) if record.due_s is None or record.due_s < 20]


def test_faults_are_what_they_are_called() -> None:
    shop = simulator(EVERYTHING)
    seen: dict[str, list[str]] = defaultdict(list)
    newest: dict[str, int] = {}
    counted: Counter[str] = Counter()
    for record in itertools.islice(shop, 20_000):
        if refusal(record) is not None:
            counted["poison"] += 1
            continue
        event = decode(record.value, key=record.key, timestamp_ms=START_MS)
        behind_ms = newest.get(event.user_id, 0) - event.time_ms
        if event.event_id in seen[event.user_id][-128:]:
            counted["duplicates"] += 1
        elif behind_ms > 600_000:
            counted["late"] += 1
            continue
        elif behind_ms > 0:
            counted["out_of_order"] += 1
        seen[event.user_id].append(event.event_id)
        newest[event.user_id] = max(newest.get(event.user_id, 0), event.time_ms)
    assert counted == {name: shop.sent[name] for name in FAULTS}


@pytest.mark.parametrize("name", POISONS)
def test_each_poison_is_refused_for_its_reason(name: str) -> None:
    reason, spoil = POISONS[name]
    for record in take(50, Crowd()):
        assert record.key is not None
        assert record.value is not None
        key, value = spoil(record.key, record.value)
        assert refusal(Outgoing(0.0, key, value)) == reason


@pytest.mark.parametrize("segment", ["buying", "looking"])
def test_a_long_run_follows_the_shops_transitions(segment: str) -> None:
    wanted, sessions = getattr(STATISTICS, segment), visits(STATISTICS, segment, events=150_000)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kinds in sessions:
        for kind, following in itertools.pairwise(kinds[1:]):
            counts[kind][following] += 1
    compared = 0
    for kind, row in wanted.transitions.items():
        total, seen = sum(row.values()), sum(counts[kind].values())
        if seen < 2000:
            continue
        for following, count in row.items():
            assert counts[kind][following] / seen == pytest.approx(count / total, abs=0.035), (kind, following)
            compared += 1
    assert compared > 30
    alone = sum(len(kinds) == 2 for kinds in sessions) / len(sessions)
    expected = sum(row.get(END, 0) for row in wanted.after_opening.values()) / wanted.sessions
    assert alone == pytest.approx(expected, abs=0.03)
    mean = sum(len(kinds) - 1 for kinds in sessions) / len(sessions)
    assert mean == pytest.approx(wanted.events / wanted.sessions, rel=0.12)


def visits(statistics: Statistics, segment: str, *, events: int) -> list[list[str]]:
    """Whole sessions of one segment alone, as kinds with their end."""
    chosen = getattr(statistics, segment)
    share = {"buying": statistics.sessions, "looking": 0}[segment]
    only = Statistics(
        **{
            **{name: getattr(statistics, name) for name in statistics.__struct_fields__},
            "buying": type(chosen)(
                **{**{n: getattr(statistics.buying, n) for n in chosen.__struct_fields__}, "sessions": share}
            ),
        }
    )
    crowd = Crowd(rate=1000, users=50, speed=50)
    open_sessions: dict[str, list[str]] = {}
    for record in itertools.islice(Simulator(only, crowd, seed=3, start_ms=START_MS), events):
        event = decode(record.value, key=record.key, timestamp_ms=START_MS)
        open_sessions.setdefault(event.session_id or "", []).append(event.type)
    return [[*kinds, END] for kinds in list(open_sessions.values())[:-50]]


def test_users_return_and_are_no_more_than_asked_for() -> None:
    events = decoded(take(20_000, Crowd(rate=200, users=150, speed=20)))
    assert len({event.user_id for event in events}) == 150
    visits_of: dict[str, list[int]] = defaultdict(list)
    for event in events:
        assert event.context is not None
        assert event.context.visit_number is not None
        visits_of[event.user_id].append(event.context.visit_number)
    for numbers in visits_of.values():
        assert numbers == sorted(numbers)
        assert numbers[-1] > 1


def test_dwell_times_are_natural_in_shop_time_whatever_the_speed() -> None:
    means = []
    for speed in (1.0, 20.0):
        last: dict[str | None, int] = {}
        gaps_ms = []
        for event in decoded(take(40_000, Crowd(rate=10 * speed, users=5000, speed=speed))):
            if event.session_id in last:
                gaps_ms.append(event.time_ms - last[event.session_id])
            last[event.session_id] = event.time_ms
        means.append(sum(gaps_ms) / len(gaps_ms) / 1000)
    real = 35.4 / (1 - STATISTICS.sessions / STATISTICS.events)  # a session's last event has no dwell
    assert means == pytest.approx([real, real], rel=0.15)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": 1e308}, "rate"),
        ({"users": 0}, "users"),
        ({"speed": -1}, "speed"),
        ({"bots": 1.5}, "bots"),
        ({"late": -0.1}, "late"),
        ({"poison": 0.5, "duplicates": 0.5}, "poison"),
    ],
)
def test_a_crowd_that_makes_no_stream_is_refused_by_name(values: dict[str, float], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        Crowd(**values)  # type: ignore[arg-type]  # one table for whole and fractional values


@pytest.mark.parametrize("start", ["1969-12-31T23:59:59Z", "9999-12-31T23:59:59-10:00"])
def test_a_shop_opens_at_a_time_that_an_event_may_have(start: str) -> None:
    run = CliRunner().invoke(app, ["simulate", "--start", start], env={"COLUMNS": "200"})
    assert run.exit_code == 2
    assert "is not between 1970 and 9999" in run.output
