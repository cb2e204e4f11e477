"""The teacher answers for visitors that it never saw, and its answers go where labels count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.scoring import making
from tests.unit.training.test_pretrain import examples_of
from worker.scoring.encode import Vocabulary
from worker.training import teacher, trees
from worker.training.checkpoints import Checkpoints
from worker.training.examples import Examples
from worker.training.features import Features

VISITORS, EACH = 40, 3


class Grown:
    """Trees that remember whom they were taught by, and answer with 0.25."""

    def __init__(self, visitors: NDArray[np.float32]) -> None:
        self.taught = set(visitors.tolist())
        self.asked: set[float] = set()

    def predict(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        self.asked |= set(table[:, 0].tolist())
        return np.full(len(table), 0.25)


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> list[Grown]:
    """All trees that are grown, on tables of nothing but the visitor."""
    every: list[Grown] = []

    class Table:
        def __init__(self, places: NDArray[np.int64]) -> None:
            self.places = places

        def table(self) -> NDArray[np.float32]:
            return (self.places // EACH).astype(np.float32)[:, None]

    def grow(table: NDArray[np.float32], y: object, session: object, *, rounds: int) -> Grown:  # noqa: ARG001
        every.append(Grown(table[:, 0]))
        return every[-1]

    monkeypatch.setattr(Features, "of", lambda windows, places, vocabulary: Table(places))  # noqa: ARG005
    monkeypatch.setattr(trees, "grow", grow)
    return every


def examples() -> Examples:
    """Three windows a visitor; the last visitor's label of 7 days does not count."""
    made = examples_of(making.random_windows(VISITORS * EACH, seed=5))
    rng = np.random.default_rng(5)
    counted = np.ones((VISITORS * EACH, 3), np.bool_)
    counted[-EACH:, 2] = False
    return Examples(
        windows=made.windows,
        y=rng.random(counted.shape) < 0.3,
        counted=counted,
        session=made.session,
        visitor=np.arange(VISITORS * EACH) // EACH,
        time_ms=made.time_ms,
    )


def vocabulary() -> Vocabulary:
    return making.bundle().vocabulary


def test_trees_answer_for_visitors_that_did_not_teach_them(grown: list[Grown]) -> None:
    teacher.softened(examples(), vocabulary(), share=0.5, stage="the teacher", keep=None)
    assert len(grown) == 6  # two halves of three horizons
    for one in grown:
        assert not one.taught & one.asked
    for first, second in zip(grown[::2], grown[1::2], strict=True):
        assert first.asked | second.asked == first.taught | second.taught
        assert min(len(first.asked), len(second.asked)) > VISITORS / 4


@pytest.mark.usefixtures("grown")
def test_labels_that_count_are_softened_and_no_others() -> None:
    given = examples()
    found = teacher.softened(given, vocabulary(), share=0.4, stage="the teacher", keep=None)
    y = given.y.astype(np.float32)
    assert found.y[given.counted] == pytest.approx((0.6 * y + 0.4 * 0.25)[given.counted])
    assert np.array_equal(found.y[~given.counted], y[~given.counted])
    assert np.array_equal(found.counted, given.counted)


@pytest.mark.usefixtures("grown")
def test_what_is_taught_beside_stays_what_happened() -> None:
    """Three horizons; a fourth target counts everywhere."""
    given = examples()
    beside = np.arange(len(given.y))[:, None] % 3 == 0
    wide = replace(given, y=np.hstack([given.y, beside]), counted=np.hstack([given.counted, np.ones_like(beside)]))
    found, plain = (
        teacher.softened(one, vocabulary(), share=0.4, stage="the teacher", keep=None) for one in (wide, given)
    )
    assert np.array_equal(found.y[:, :3], plain.y)
    assert np.array_equal(found.y[:, 3], beside[:, 0].astype(np.float32))


def test_a_run_that_goes_on_asks_no_second_time(grown: list[Grown], tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path)
    first, second = (
        teacher.softened(examples(), vocabulary(), share=0.5, stage="the teacher", keep=keep) for _ in range(2)
    )
    assert len(grown) == 6
    assert np.array_equal(first.y, second.y)
    teacher.softened(examples(), vocabulary(), share=0.5, stage="refit, the teacher", keep=keep)
    assert len(grown) == 12
