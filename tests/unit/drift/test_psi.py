"""PSI by an independent formula, and its noise by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import chi2, entropy

from worker.drift import psi as module
from worker.drift.psi import ACT, WATCH, Verdict, design_effect, least, noise, psi, verdict

REFERENCE = np.array([4000, 3000, 2000, 600, 300, 100])


def test_it_is_the_two_divergences_added_up(rng: np.random.Generator) -> None:
    """By scipy's Kullback-Leibler, on counts so large that smoothing is nothing."""
    for _ in range(20):
        p, q = rng.dirichlet(np.ones(9) * 3), rng.dirichlet(np.ones(9) * 3)
        counts = [np.round(part * 1e12).astype(np.int64) for part in (p, q)]
        assert psi(*counts) == pytest.approx(entropy(p, q) + entropy(q, p), rel=1e-6)


def test_a_textbook_case() -> None:
    """10 % moves from one half to the other: 2 * 0.1 * ln(0.6 / 0.4) / 2 twice."""
    assert psi(np.array([500_000, 500_000]), np.array([600_000, 400_000])) == pytest.approx(
        0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5), abs=1e-5
    )


def test_an_empty_bin_is_no_infinity() -> None:
    assert 0.2 < psi(REFERENCE, np.array([100, 0, 100, 0, 0, 0])) < 10
    assert psi(REFERENCE, REFERENCE) == 0
    assert noise(REFERENCE, np.zeros(6, np.int64)) == math.inf
    assert noise(np.zeros(6, np.int64), REFERENCE) == math.inf


@pytest.mark.parametrize("bins", [2, 3, 6, 11, 20])
def test_noise_holds_back_99_of_100_samples_without_drift(bins: int, rng: np.random.Generator) -> None:
    p = rng.dirichlet(np.ones(bins) * 5)
    reference = rng.multinomial(50_000, p)
    n = least(reference)
    values = np.array([psi(reference, rng.multinomial(n, p)) for _ in range(4000)])
    bound = noise(reference, np.array([n] + [0] * (bins - 1)))
    assert bound == pytest.approx(WATCH, rel=0.01)  # the smallest sample for which the threshold means anything
    assert np.mean(values > bound) == pytest.approx(0.01, abs=0.012)
    too_few = np.array([psi(reference, rng.multinomial(n // 4, p)) for _ in range(1000)])
    assert np.mean(too_few > WATCH) > 0.05  # with a quarter of it, chance alone would ring


def test_a_references_own_chance_counts() -> None:
    assert noise(REFERENCE, REFERENCE) == pytest.approx(2 * chi2.ppf(0.99, 5) / 10_000, rel=0.01)
    for reference in (REFERENCE, REFERENCE // 20):
        seen = np.array([least(reference), 0, 0, 0, 0, 0])
        assert noise(reference, seen) <= WATCH < noise(reference, seen - [1, 0, 0, 0, 0, 0])


def test_the_percentile_is_scipys() -> None:
    for degrees in range(1, 60):
        assert module._chi_squared_99(degrees) == pytest.approx(chi2.ppf(0.99, degrees), rel=0.012)


def test_a_visitors_events_are_not_independent(rng: np.random.Generator) -> None:
    """Each of 2,000 visitors repeats one draw 1 to 30 times: noise follows the design effect, not the events."""
    p = REFERENCE / REFERENCE.sum()

    def clustered(visitors: int) -> np.ndarray:
        return rng.multinomial(1, p, visitors) * rng.integers(1, 31, visitors)[:, None]

    table = clustered(20_000)
    effect = design_effect(table)
    sizes = np.arange(1, 31)
    assert effect == pytest.approx((sizes**2).mean() / sizes.mean(), rel=0.05)  # Kish's, for events that are all alike
    reference = table.sum(axis=0)
    values, bounds = [], []
    for _ in range(1500):
        seen = clustered(600).sum(axis=0)
        values.append(psi(reference, seen))
        bounds.append(noise(reference, seen, effect=effect))
    share = np.mean(np.array(values) > np.array(bounds))
    assert share < 0.035  # 0.017 in the mean of 24 seeds, 0.025 at most: the statistic is not quite chi-squared
    assert np.mean(np.array(values) > np.array(bounds) / effect) > 0.5  # taken for independent, most would ring
    assert design_effect(rng.multinomial(5, p, 20_000)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("counts", "effect"),
    [
        pytest.param([[0, 0, 0]], 1.0, id="nobody"),
        pytest.param([[0, 4, 0], [0, 5, 0]], 1.0, id="all alike"),
        pytest.param([[6, 0, 0], [0, 6, 0]], 3.0, id="two who repeat themselves, in two bins of three"),
        pytest.param([[2, 1, 0], [1, 2, 0]], 1.0, id="never less than independent"),
    ],
)
def test_the_design_effect_of_few(counts: list[list[int]], effect: float) -> None:
    """Where each visitor's k events fall into one bin, a bin of share p adds (1 - p) k, over all but one bins."""
    assert design_effect(np.array(counts)) == pytest.approx(effect)


@pytest.mark.parametrize(
    ("value", "chance", "wanted"),
    [
        (0.05, 0.02, "fine"),
        (0.05, WATCH, "fine"),
        (WATCH, 0.02, "watch"),
        (0.12, 0.02, "watch"),
        (ACT, 0.02, "watch"),
        (ACT + 0.01, 0.02, "act"),
        (0.12, 0.2, "too few"),
        (0.5, 0.2, "act"),
        (0.5, 0.3, "too few"),
        (0.05, math.inf, "too few"),
        (0.2, 0.2, "too few"),
        (0.3, ACT, "act"),
    ],
)
def test_verdicts(value: float, chance: float, wanted: Verdict) -> None:
    assert verdict(value, chance) == wanted


def test_a_short_reference_is_never_enough() -> None:
    assert least(np.array([10, 10, 10])) == np.iinfo(np.int64).max
