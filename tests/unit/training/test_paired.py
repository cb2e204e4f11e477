"""Paired differences against measuring each by itself."""

import numpy as np
import pytest

from worker.training.metrics import bootstrap, measure
from worker.training.paired import PAIRED, differences

USERS, EACH = 150, 6


def sample(*, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scorer that knows something of the truth, the truth, and whose instants they are."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(USERS), EACH)
    truth = rng.random(USERS * EACH) < 0.2
    noise = np.repeat(rng.normal(size=USERS), EACH)  # some visitors are harder than others
    return 1 / (1 + np.exp(-(truth * 1.5 + noise - 1))), truth, user


def test_the_value_is_the_difference_of_both() -> None:
    p, truth, user = sample()
    other = np.clip(p + np.random.default_rng(1).normal(scale=0.1, size=len(p)), 0.01, 0.99)
    found = differences(p, other, truth, user, draws=20)
    for name in PAIRED:
        assert found[name].value == pytest.approx(measure(other, truth)[name] - measure(p, truth)[name])
        assert found[name].low <= found[name].value <= found[name].high


def test_a_scorer_does_not_differ_from_itself() -> None:
    p, truth, user = sample()
    for estimate in differences(p, p.copy(), truth, user, draws=20).values():
        assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_a_small_gain_is_seen_where_each_interval_alone_hides_it() -> None:
    p, truth, user = sample()
    better = p + 0.03 * truth
    gain = differences(p, better, truth, user, draws=100)["ap"]
    assert 0 < gain.low < gain.high < 0.2
    alone = bootstrap(p, truth, user, draws=100, seed=0)["ap"]
    assert gain.high - gain.low < (alone.high - alone.low) / 2
    assert alone.high > measure(better, truth)["ap"]
