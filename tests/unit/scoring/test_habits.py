"""What is usual, and how rare a window is: against plain loops, and on windows made to be strange."""

import math
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import pstdev

import numpy as np
import pytest
import safetensors.numpy
from msgspec import structs

from tests.unit.scoring import making
from worker import window
from worker.errors import SettingError
from worker.events import Event, Item
from worker.scores import RISK_REASONS
from worker.scoring import bundle as bundles
from worker.scoring import habits, risk
from worker.scoring.batch import Batch
from worker.scoring.engine import Engine
from worker.scoring.habits import FAR, LEVELS, SYMBOLS, Habits
from worker.training import habits as learning

MINUTE = 60_000


def shopper(rng: np.random.Generator, count: int) -> list[Event]:
    """Lists and items in turn, at a person's pace, with a cart now and then."""
    time, events = making.START_MS, []
    for number in range(count):
        time += int(1000 * rng.lognormal(2.5, 1.2))
        kind = "view_item" if number % 2 else "view_item_list"
        kind = "add_to_cart" if rng.random() < 0.05 else kind
        items = (Item(item_id=f"sku{rng.integers(40)}"),) if kind != "view_item_list" else ()
        page = f"/{kind}/{rng.integers(9)}"
        events.append(making.event(number, type=kind, event_time=time, session_id="s", items=items, page=page))
    return events


@pytest.fixture(scope="module")
def usual() -> list[bytes]:
    rng = np.random.default_rng(41)
    return [making.window_of(shopper(rng, int(rng.integers(3, 40)))) for _ in range(1500)]


@pytest.fixture(scope="module")
def known(usual: list[bytes]) -> Habits:
    batch = Batch.of(usual)
    return learning.learn([batch], [batch])


def mixed() -> list[bytes]:
    rng = np.random.default_rng(42)
    loops = []
    for _ in range(20):
        pages, time, events = int(rng.integers(2, 9)), making.START_MS, []
        for number in range(int(rng.integers(8, 40))):
            time += int(rng.choice([10, 900, 1_000, 4_000, 30 * MINUTE, 31 * MINUTE]))
            session = f"s{number // int(rng.integers(3, 9))}"
            events.append(
                making.event(number, type="page_view", event_time=time, session_id=session, page=f"/{number % pages}")
            )
        loops.append(making.window_of(events))
    return [*making.random_windows(80, seed=43), *loops]


def plain(encoded: bytes, known: Habits) -> dict[str, float]:
    """The later signs of the table in `worker/scoring/habits.py`, from the decoded window."""
    rows = window.view(encoded).rows
    gaps = [after.time_ms - before.time_ms for before, after in pairwise(rows)]
    opens = [
        after.session != before.session or (after.session == 0 and gap > 30 * MINUTE)
        for before, after, gap in zip(rows, rows[1:], gaps, strict=False)
    ]
    steps = []
    for before, after, gap, new in zip(rows, rows[1:], gaps, opens, strict=False):
        bucket = sum(gap >= limit for limit in (1_000, 3_000, 10_000, MINUTE))
        if new:
            bucket = 5 if gap >= 30 * MINUTE else 6
        same = after.item == before.item if after.item else after.page == before.page
        steps.append((after.kind * 7 + bucket) * 2 + same)
    beyond = variance = 0.0
    for one, two in pairwise(steps):
        p = np.exp(-known.chain.surprise[one].astype(float))
        mean = float((p * -np.log(p)).sum())
        beyond += -math.log(p[two]) - mean
        variance += float((p * (-np.log(p) - mean) ** 2).sum())
    inner = [math.log(max(gap, 50)) for gap, new in zip(gaps, opens, strict=True) if not new]
    acts = [(row.kind, row.item, row.page) for row in rows]
    triples = Counter(zip(acts, acts[1:], acts[2:], strict=False))
    count = max(len(acts) - 2, 0)
    return {
        "unusual_sequence": beyond / math.sqrt(variance) if variance else 0.0,
        "regular_pace": -pstdev(inner) if len(inner) >= 12 else -FAR,
        "repeated_sequence": (count - len(triples)) / count if count >= 10 else -FAR,
        "overlapping_sessions": sum(new and gap < 30 * MINUTE for gap, new in zip(gaps, opens, strict=True)),
    }


def test_signs_are_those_of_a_plain_loop(known: Habits) -> None:
    windows = mixed()
    measured = habits.signs(Batch.of(windows), known)
    for row, encoded in zip(measured, windows, strict=True):
        for code, value in plain(encoded, known).items():
            assert row[RISK_REASONS.index(code)] == pytest.approx(value, rel=1e-3, abs=2e-3), code
    assert (measured[:, 4:].max(axis=0) > measured[:, 4:].min(axis=0)).all()


def test_the_rule_needs_no_habits_and_shows_its_own_codes_only() -> None:
    score, mask = risk.risk(Batch.of(mixed()))
    assert score.max() > 0.2
    assert (mask < 1 << len(risk.RULE)).all()
    assert tuple(risk.RULE) == RISK_REASONS[: len(risk.RULE)]


def test_a_chain_is_a_distribution_that_counts_and_thins() -> None:
    counts = np.zeros((SYMBOLS, SYMBOLS))
    counts[7, [3, 4]] = 30_000, 10_000
    made = learning.chain(counts)
    p = np.exp(-made.surprise.astype(np.float64))
    assert p.sum(axis=1) == pytest.approx(np.ones(SYMBOLS), rel=1e-4)
    assert p[7, 3] == pytest.approx(0.75, abs=0.01)
    assert made.expected[7] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=0.05)
    assert p[8, 3] > 100 * p[8, 5] > 0  # never seen after 8: as after the same kind


def test_a_ladder_tells_how_many_reach_a_value() -> None:
    rng = np.random.default_rng(44)
    for values in (rng.normal(size=20_000), rng.integers(0, 30, 20_000).astype(float), np.full(100, 2.0)):
        levels = learning.ladder(values)
        assert levels.shape == (LEVELS,)
        assert (np.diff(levels) >= 0).all()
        for value in np.unique(values)[:: max(1, len(np.unique(values)) // 50)]:
            share = float((values >= value).mean())
            decade = habits.decades(np.array([[value]], np.float32), levels[None])[0, 0]
            assert decade <= -math.log10(share) + 0.11
            assert decade >= -math.log10(share) - 0.11
        beyond = habits.decades(np.array([[values.max() + 1]], np.float32), levels[None])[0, 0]
        assert beyond == pytest.approx(math.log10(len(values)), abs=0.11)


def test_a_score_is_a_percentile_of_the_usual(usual: list[bytes], known: Habits) -> None:
    score, mask = risk.risk(Batch.of(usual), known)
    for at in (0.5, 0.9, 0.99):
        assert float((score > at).mean()) == pytest.approx(1 - at, abs=0.03)
    told = [float((mask >> bit & 1).mean()) for bit in range(len(RISK_REASONS))]
    assert max(told) == pytest.approx(0.01, abs=0.004)  # a code is given to one in a hundred


def robot() -> list[Event]:
    return [
        making.event(n, type="view_item", event_time=making.START_MS + 5_000 * n, session_id="s", page=f"/{n}")
        for n in range(30)
    ]


def hoarder() -> list[Event]:
    rng = np.random.default_rng(45)
    times = making.START_MS + np.cumsum(rng.lognormal(2.5, 1.2, 25) * 1000).astype(int)
    return [
        making.event(
            n, type="add_to_cart", event_time=int(time), session_id="s", items=(Item(item_id=f"sku{n}"),), page=f"/{n}"
        )
        for n, time in enumerate(times)
    ]


def shared() -> list[Event]:
    one, other = shopper(np.random.default_rng(46), 15), shopper(np.random.default_rng(47), 15)
    events = [*one, *(structs.replace(event, event_id=f"o{event.event_id}", session_id="t") for event in other)]
    return sorted(events, key=lambda event: event.time_ms)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        pytest.param(robot(), "regular_pace", id="an even pace"),
        pytest.param(hoarder(), "unusual_sequence", id="carts without a look"),
        pytest.param(shared(), "overlapping_sessions", id="two at a time"),
        pytest.param(shopper(np.random.default_rng(48), 8), None, id="a shopper"),
    ],
)
def test_strangers_are_found_and_told_why(events: list[Event], code: str | None, known: Habits) -> None:
    score, mask = risk.risk(Batch.of([making.window_of(events)]), known)
    codes = {name for bit, name in enumerate(RISK_REASONS) if mask[0] >> bit & 1}
    if code is None:
        assert not codes
        assert score[0] < 0.97
    else:
        assert code in codes
        assert score[0] > 0.98


def test_a_window_is_as_rare_alone_as_among_others(known: Habits) -> None:
    windows = mixed()
    together = risk.risk(Batch.of(windows), known)
    for at, encoded in enumerate(windows):
        score, mask = risk.risk(Batch.of([encoded]), known)
        assert (score[0], mask[0]) == (together[0][at], together[1][at])


@pytest.fixture(scope="module")
def habitual(known: Habits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    bundles.save(folder, replace(making.bundle(), habits=known))
    return folder


def test_a_bundle_keeps_habits_and_the_engine_uses_them(habitual: Path, known: Habits) -> None:
    loaded = bundles.load(habitual)
    assert loaded.habits is not None
    assert np.array_equal(loaded.habits.joined, known.joined)
    windows = mixed()
    with Engine(lambda: loaded, device="cpu", threads=1) as engine:
        scores = engine.score_now(windows)
    expected = risk.risk(Batch.of(windows), known)
    assert np.array_equal(scores.risk, expected[0])
    assert np.array_equal(scores.risk_reasons, expected[1])


def test_a_bundle_may_lack_habits(habitual: Path, tmp_path: Path) -> None:
    """One that is written over another leaves none of its habits behind."""
    copy = Path(shutil.copytree(habitual, tmp_path / "bundle"))
    bundles.save(copy, making.bundle())
    assert bundles.load(copy).habits is None
    assert not (copy / bundles.HABITS).exists()


@pytest.mark.parametrize("name", ["surprise", "levels", "joined"])
def test_habits_of_another_size_are_refused(name: str, habitual: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(habitual, tmp_path / "bundle"))
    arrays = safetensors.numpy.load((copy / bundles.HABITS).read_bytes())
    arrays[name] = np.ascontiguousarray(arrays[name][:-1])
    (copy / bundles.HABITS).write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(SettingError, match=r"habits.safetensors does not match"):
        bundles.load(copy)
    bundles.seal(copy)
    with pytest.raises(SettingError, match=r"habits.safetensors does not hold what it should"):
        bundles.load(copy)


def test_levels_that_fall_are_refused(habitual: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(habitual, tmp_path / "bundle"))
    arrays = safetensors.numpy.load((copy / bundles.HABITS).read_bytes())
    arrays["joined"] = np.ascontiguousarray(arrays["joined"][::-1])
    (copy / bundles.HABITS).write_bytes(safetensors.numpy.save(arrays))
    bundles.seal(copy)
    with pytest.raises(SettingError, match="levels must ascend"):
        bundles.load(copy)
