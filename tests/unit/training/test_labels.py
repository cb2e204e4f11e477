"""Labels and slices on hand-made events: what counts, what never does, and what no slice may see of another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worker.shop import mapping
from worker.shop.ga360 import SPLITS, parse_time
from worker.training.labels import (
    AUXILIARY,
    END,
    HORIZONS_MS,
    REFIT_HELD_OUT,
    SLICES,
    START,
    TEST,
    VALIDATION,
    WEEK_VALIDATION,
    Events,
    auxiliary,
    decision_points,
    held_out,
    labels,
    member,
    untested,
)

MINUTE, DAY = 60_000, 86_400_000


def events_of(rows: list[tuple[int, int, str]]) -> Events:
    """(visitor, time, what) in stream order; `buy` and `done` are on the order-completed page."""
    rows = sorted(rows, key=lambda row: row[1])
    what = np.array([row[2] for row in rows])
    return Events(
        visitor=np.array([row[0] for row in rows]),
        session=np.array([row[0] for row in rows]),
        time_ms=np.array([row[1] for row in rows]),
        kind=np.where(what == "cart", 5, 1),
        instant=~np.isin(what, ["buy", "done"]),
        purchase=what == "buy",
    )


@pytest.mark.parametrize(
    ("ahead_ms", "label"),
    [
        pytest.param(0, (False, False, False), id="at the same instant: not ahead"),
        pytest.param(1, (True, True, True), id="right after"),
        pytest.param(30 * MINUTE, (True, True, True), id="at the half hour's end"),
        pytest.param(30 * MINUTE + 1, (False, True, True), id="after the half hour"),
        pytest.param(DAY + 1, (False, False, True), id="after a day"),
        pytest.param(7 * DAY, (False, False, True), id="at the week's end"),
        pytest.param(7 * DAY + 1, (False, False, False), id="after a week"),
        pytest.param(-5, (False, False, False), id="before"),
    ],
)
def test_a_label_is_a_purchase_in_the_half_open_horizon(ahead_ms: int, label: tuple[bool, ...]) -> None:
    events = events_of([(1, START, "view"), (1, START + ahead_ms, "buy"), (0, START + MINUTE, "view")])
    at = int(np.flatnonzero((events.visitor == 1) & ~events.purchase)[0])
    assert tuple(labels(events)[at]) == label


def test_labels_are_those_of_a_plain_loop(rng: np.random.Generator) -> None:
    rows = [
        (
            int(rng.integers(0, 12)),
            START + int(rng.integers(0, 20 * DAY)) // 3600_000 * 3600_000,
            str(rng.choice(["view", "cart", "buy", "done"])),
        )
        for _ in range(400)
    ]
    events = events_of(rows)
    found = labels(events)
    for at in range(len(rows)):
        mine = events.time_ms[events.purchase & (events.visitor == events.visitor[at])]
        ahead = mine[mine > events.time_ms[at]] - events.time_ms[at]
        assert found[at].tolist() == [bool((ahead <= horizon).any()) for horizon in HORIZONS_MS]


def test_auxiliary_labels_are_those_of_a_plain_loop(rng: np.random.Generator) -> None:
    """Sessions of a visitor follow one another; an item is viewed by one event in three."""
    times = np.sort(rng.integers(0, 12 * DAY, 500)) // MINUTE * MINUTE + START
    visitor = rng.integers(0, 25, 500)
    kind = rng.choice([1, 4, 5], 500)
    session = np.array([visit * 1000 + (at - START) // (2 * DAY) for visit, at in zip(visitor, times, strict=True)])
    events = Events(
        visitor=visitor,
        session=session,
        time_ms=times,
        kind=kind,
        instant=np.ones(500, np.bool_),
        purchase=np.zeros(500, np.bool_),
    )
    begun: set[int] = set()
    marks: dict[str, list[tuple[int, int]]] = {"views an item": [], "comes back": []}
    for who, which, when, what in zip(visitor, session, times, kind, strict=True):
        if what == 4:
            marks["views an item"].append((who, when))
        if which not in begun:
            begun.add(which)
            marks["comes back"].append((who, when))
    found = auxiliary(events)
    for at in range(500):
        for column, (name, horizon) in enumerate(AUXILIARY):
            ahead = [when - times[at] for who, when in marks[name] if who == visitor[at]]
            assert found[at, column] == any(0 < wait <= HORIZONS_MS[horizon] for wait in ahead)
    assert found.any(axis=0).all()
    assert not found.all(axis=0).any()


def test_one_time_that_is_far_off_changes_no_other_label() -> None:
    """Times up to the year 9999 are events; many visitors times the span of time no longer fit into 64 bits."""
    rows = [(visitor, START + visitor, "view") for visitor in range(60_000)]
    rows += [(visitor, START + 60_000 + visitor, "buy") for visitor in range(60_000)]
    far = events_of([*rows, (7, 253_000_000_000_000, "view")])
    assert labels(far)[:60_000].all()
    assert not labels(far)[60_000:].any()


def test_slices_are_apart_purged_and_without_the_order_completed_page(rng: np.random.Generator) -> None:
    times = np.sort(rng.integers(START, END, 20_000))
    events = Events(
        visitor=rng.integers(0, 500, 20_000),
        session=np.arange(20_000),
        time_ms=times,
        kind=np.ones(20_000, np.int64),
        instant=rng.random(20_000) < 0.9,
        purchase=np.zeros(20_000, np.bool_),
    )
    inside = {which: member(events, which) for which in SLICES if "refit" not in which}
    for at, horizon in enumerate(HORIZONS_MS):
        assert not (inside["train"][:, at] & inside["validation"][:, at]).any()
        assert not (inside["validation"][:, at] & inside["test"][:, at]).any()
        ends = {which: times[rows[:, at]].max() + horizon for which, rows in inside.items()}
        starts = {which: times[rows[:, at]].min() for which, rows in inside.items()}
        assert ends["train"] <= starts["validation"] + DAY  # the slice's start, give or take where instants fell
        assert ends["validation"] <= TEST
        assert starts["test"] >= TEST
        assert ends["test"] <= END
    for rows in inside.values():
        assert not rows[~events.instant].any()
    choosing, calibrating = (inside[which] for which in ("choice", "calibration"))
    assert np.array_equal(choosing | calibrating, inside["validation"])
    theirs, others = (set(events.visitor[rows.any(axis=1)].tolist()) for rows in (calibrating, choosing))
    assert not theirs & others
    assert 80 < len(theirs) < 180  # one in four of 500
    week = inside["validation"][:, 2]
    assert (times[week] >= WEEK_VALIDATION).all()
    assert held_out(events.visitor[week]).all()
    assert not (week[:, None] & inside["train"]).any()  # whatever the horizon
    held = held_out(events.visitor)
    for at, horizon in enumerate(HORIZONS_MS):
        known = times[inside["train"][:, at] & held] + horizon
        assert WEEK_VALIDATION - DAY < known.max() <= WEEK_VALIDATION  # no label that taught looks into their week
    assert (times[inside["train"][:, 2]] + HORIZONS_MS[2] <= WEEK_VALIDATION).all()
    assert (times[inside["train"][:, 1]] + DAY <= VALIDATION).all()


def test_the_refit_ends_before_the_test_slice_and_is_calibrated_on_others(rng: np.random.Generator) -> None:
    times = np.sort(rng.integers(START, END, 20_000))
    events = Events(
        visitor=rng.integers(0, 500, 20_000),
        session=np.arange(20_000),
        time_ms=times,
        kind=np.ones(20_000, np.int64),
        instant=np.ones(20_000, np.bool_),
        purchase=np.zeros(20_000, np.bool_),
    )
    refit, calibration = member(events, "refit"), member(events, "refit calibration")
    for at, horizon in enumerate(HORIZONS_MS):
        for rows in (refit[:, at], calibration[:, at]):
            assert TEST - DAY < times[rows].max() + horizon <= TEST
        assert times[calibration[:, at]].min() >= WEEK_VALIDATION
    calibrating = np.unique(events.visitor[calibration.any(axis=1)])
    theirs = np.isin(events.visitor, calibrating)
    for at, horizon in enumerate(HORIZONS_MS):
        ends = times[refit[:, at] & theirs] + horizon
        assert WEEK_VALIDATION - DAY < ends.max() <= WEEK_VALIDATION  # no label that taught looks into their time
    assert 50 < len(calibrating) < 120  # one in six of 500


def test_whom_the_slices_hold_out_never_changes() -> None:
    """Others would have taught a bundle that was made before, and be judged by it."""
    assert np.flatnonzero(held_out(np.arange(50), one_in=6)).tolist() == [0, 3, 12, 17, 22, 27, 36, 41, 46]


HALF_HOUR, _, WEEK = HORIZONS_MS
_SOME = np.arange(200)
HELD, KEPT = held_out(_SOME), held_out(_SOME, one_in=REFIT_HELD_OUT)


@pytest.mark.parametrize(
    ("which", "horizon", "whose", "first", "last"),
    [
        pytest.param("train", 0, ~HELD, None, VALIDATION - HALF_HOUR, id="train"),
        pytest.param("train", 0, HELD, None, WEEK_VALIDATION - HALF_HOUR, id="train, held out"),
        pytest.param("train", 2, ~HELD, None, WEEK_VALIDATION - WEEK, id="train, 7 d"),
        pytest.param("validation", 0, HELD | ~HELD, VALIDATION, TEST - HALF_HOUR, id="validation"),
        pytest.param("validation", 2, HELD, WEEK_VALIDATION, VALIDATION - 1, id="validation, 7 d"),
        pytest.param("test", 0, HELD | ~HELD, TEST, END - HALF_HOUR, id="test"),
        pytest.param("test", 2, HELD | ~HELD, TEST, END - WEEK, id="test, 7 d"),
        pytest.param("refit", 0, ~KEPT, None, TEST - HALF_HOUR, id="refit"),
        pytest.param("refit", 0, KEPT, None, WEEK_VALIDATION - HALF_HOUR, id="refit, held out"),
        pytest.param("refit calibration", 0, KEPT, WEEK_VALIDATION, TEST - HALF_HOUR, id="refit calibration"),
    ],
)
def test_a_slice_begins_and_ends_to_the_millisecond(
    which: str, horizon: int, whose: np.ndarray, first: int | None, last: int
) -> None:
    visitor = int(np.flatnonzero(whose)[0])
    edges = {last: True, last + 1: False} | ({} if first is None else {first: True, first - 1: False})
    found = member(events_of([(visitor, time, "view") for time in edges]), which)[:, horizon]
    assert found.tolist() == [edges[time] for time in sorted(edges)]


def test_an_auxiliary_label_reaches_to_its_horizons_end() -> None:
    for late, seen in ((0, True), (1, False)):
        events = events_of([(1, START, "view"), (1, START + HALF_HOUR + late, "view")])
        events = replace(events, kind=np.array([1, 4]))
        assert auxiliary(events)[0, AUXILIARY.index(("views an item", 0))] == seen


@pytest.mark.parametrize("which", ["train", "refit"])
def test_nothing_before_the_start_teaches(which: str) -> None:
    times = np.arange(START, TEST, 3 * 3_600_000)
    plain = {"session": np.arange(len(times)), "kind": np.ones(len(times), np.int64), "visitor": np.arange(len(times))}
    events = Events(
        **plain,
        time_ms=times,
        instant=np.ones(len(times), np.bool_),
        purchase=np.zeros(len(times), np.bool_),
        splits=replace(SPLITS, start=START + 20 * DAY, outages=()),
    )
    for column in member(events, which).T:
        assert times[column].min() == START + 20 * DAY


@pytest.mark.parametrize("which", ["train", "refit"])
def test_no_label_of_training_looks_into_the_day_without_purchases(which: str) -> None:
    times = np.arange(START, START + 6 * DAY, 10 * MINUTE)
    events = Events(
        visitor=np.arange(len(times)),
        session=np.arange(len(times)),
        time_ms=times,
        kind=np.ones(len(times), np.int64),
        instant=np.ones(len(times), np.bool_),
        purchase=np.zeros(len(times), np.bool_),
    )
    outage = parse_time("2016-08-03"), parse_time("2016-08-04")
    inside = member(events, which)
    for at, horizon in enumerate(HORIZONS_MS):
        looks = (times + horizon > outage[0]) & (times < outage[1])
        assert np.array_equal(inside[:, at], ~looks)


@pytest.mark.parametrize(
    ("days", "names"),
    [
        pytest.param(7.01, "", id="over a week"),
        pytest.param(6.8, "at 7 d:", id="15 % of 45 days"),
        pytest.param(0.5, "at 24 h and 7 d:", id="half a day"),
    ],
)
def test_a_test_slice_too_short_for_a_horizon_says_so(days: float, names: str) -> None:
    told = untested(replace(SPLITS, end=SPLITS.test + round(days * 86_400_000)))
    assert names in told
    assert bool(told) == bool(names)


@pytest.mark.parametrize(("days", "taught"), [(19.9, False), (20.5, True), (31, True)])
def test_how_long_a_table_must_be_is_as_the_mappings_page_says(days: float, *, taught: bool) -> None:
    page = " ".join((Path(__file__).parents[3] / "deploy/mappings/README.md").read_text().split())
    assert "first week of a month, and nothing of 20 days" in page
    shares, span = mapping.Slices(), round(days * DAY)
    assert isinstance(shares.validation, float)
    assert isinstance(shares.test, float)
    splits = replace(
        SPLITS,
        start=0,
        validation=round(span * shares.validation),
        test=round(span * shares.test),
        end=span,
        outages=(),
    )
    each = np.arange(0, span, DAY // 24)
    zeros = np.zeros(len(each), np.int64)
    no = np.zeros(len(each), np.bool_)
    events = Events(visitor=zeros, session=zeros, time_ms=each, kind=zeros, instant=~no, purchase=no, splits=splits)
    last = each[member(events, "train")[:, 2]].max(initial=-1) / DAY
    assert (last >= 0) == taught
    assert last < 8


def test_decision_points_are_one_a_session() -> None:
    rows = [(1, START + at, "cart" if at in {4, 6} else "view") for at in range(12)]
    rows += [(2, START + 100 + at, "view") for at in range(4)]
    found = {name: np.flatnonzero(chosen).tolist() for name, chosen in decision_points(events_of(rows)).items()}
    assert found["3rd event"] == [2, 14]
    assert found["5th event"] == [4]
    assert found["10th event"] == [9]
    assert found["first add to cart"] == [4]
    assert len(found["every instant"]) == 16
