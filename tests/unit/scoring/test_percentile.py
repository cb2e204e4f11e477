"""Percentiles are what counting gives, and cost little."""

import numpy as np
import pytest

from worker.scoring.percentile import Percentiles

SCORES = (np.random.default_rng(4).random((5000, 3)) ** 3).astype(np.float32)
ALL = np.ones(SCORES.shape, np.bool_)


def test_a_percentile_is_the_share_of_the_reference_that_is_reached(rng: np.random.Generator) -> None:
    found = Percentiles.fit(SCORES, ALL)
    asked = (rng.random((300, 3)) ** 3).astype(np.float32)
    counted = (SCORES[None] <= asked[:, None]).mean(axis=1)
    assert np.abs(found.of(asked) - counted).max() <= 0.0011  # it is told in steps of 0.001


def test_it_never_falls_as_a_score_rises_and_ends_at_0_and_1() -> None:
    found = Percentiles.fit(SCORES, ALL).of(np.repeat(np.linspace(0, 1, 2001, dtype=np.float32)[:, None], 3, axis=1))
    assert (np.diff(found, axis=0) >= 0).all()
    assert (found[0].tolist(), found[-1].tolist()) == ([0, 0, 0], [1, 1, 1])


def test_each_horizon_has_its_own_members() -> None:
    member = ALL.copy()
    member[:, 1] = SCORES[:, 1] > 0.5
    found = Percentiles.fit(SCORES, member).of(np.full((1, 3), 0.5, np.float32))[0]
    assert found[1] == 0
    assert found[0] > 0.7


def test_a_reference_of_equal_scores_is_reached_or_not() -> None:
    found = Percentiles.fit(np.full((10, 3), 0.25, np.float32), np.ones((10, 3), np.bool_))
    assert found.of(np.array([[0.2, 0.25, 0.3]], np.float32)).tolist() == [[0, 1, 1]]


def test_they_are_short_decimals_that_need_no_rounding() -> None:
    assert all(len(str(value)) <= 5 for value in Percentiles.fit(SCORES, ALL).of(SCORES).ravel().tolist())


@pytest.mark.parametrize(
    "quantiles",
    [
        pytest.param([[0.1, 0.2], [0.3, 0.2], [0, 1]], id="descending"),
        pytest.param([[0.1], [0.3], [0]], id="one quantile"),
        pytest.param([[0.1, 1.2]], id="no probability"),
        pytest.param([0.1, 0.2], id="one row"),
        pytest.param([[0.1, float("nan")]], id="not a number"),
    ],
)
def test_other_quantiles_are_refused(quantiles: list[object]) -> None:
    with pytest.raises(ValueError, match="quantiles"):
        Percentiles(np.array(quantiles, np.float32))
