"""Our weighted metrics against scikit-learn's, and calibration against what it should find."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from worker.training.calibrate import fit, platt
from worker.training.evaluate import interval
from worker.training.metrics import LEAST_USERS, LIFTS, METRICS, Estimate, bootstrap, enough, measure, resamples_tell

_RNG = np.random.default_rng(3)
P = np.round(_RNG.random(4000), 2)  # with ties
Y = _RNG.random(4000) < P**2


@pytest.mark.parametrize("weights", [None, _RNG.integers(0, 4, 4000).astype(np.float64)], ids=["plain", "weighted"])
def test_metrics_are_scikit_learns(weights: np.ndarray | None) -> None:
    found = measure(P, Y, weights)
    assert found["auc"] == pytest.approx(roc_auc_score(Y, P, sample_weight=weights))
    assert found["ap"] == pytest.approx(average_precision_score(Y, P, sample_weight=weights))
    safe = np.clip(P, 1e-7, 1 - 1e-7)
    assert found["log_loss"] == pytest.approx(log_loss(Y, safe, sample_weight=weights))
    assert found["brier"] == pytest.approx(brier_score_loss(Y, P, sample_weight=weights))


def test_calibration_error_of_a_constant_is_its_distance_from_the_base_rate() -> None:
    assert measure(np.full(4000, 0.5), Y)["ece"] == pytest.approx(abs(0.5 - Y.mean()))


@pytest.mark.parametrize(
    "weights", [np.ones(4000), _RNG.integers(0, 4, 4000).astype(np.float64)], ids=["plain", "weighted"]
)
def test_calibration_error_is_that_of_15_equal_bins(weights: np.ndarray, rng: np.random.Generator) -> None:
    p = np.append(rng.random(3900), np.ones(100))  # of the last bin, though on its border
    y = (rng.random(4000) < np.sqrt(p)) & (p < 1)
    expected = 0.0
    for low in range(15):
        rows = (p >= low / 15) & ((p < (low + 1) / 15) | (low == 14))
        expected += abs(float((weights[rows] * (p[rows] - y[rows])).sum()))
    assert measure(p, y, weights)["ece"] == pytest.approx(expected / weights.sum())


def test_of_both_outcomes_there_must_be_enough() -> None:
    y = np.array([True, True, False])
    assert [enough(some, least=2) for some in (y, ~y, np.append(y, False))] == [False, False, True]


@pytest.mark.parametrize("buyers", [1, LEAST_USERS - 1, LEAST_USERS])
def test_an_interval_takes_so_many_users_of_each_outcome_however_many_instants_they_have(buyers: int) -> None:
    user = np.repeat(np.arange(60), 50)
    assert resamples_tell(user < buyers, user) == resamples_tell(user >= buyers, user) == (buyers >= LEAST_USERS)


@pytest.mark.parametrize(("metric", "share"), [("lift_1", 0.01), ("lift_5", 0.05), ("lift_10", 0.1)])
def test_lift_is_the_rate_at_the_top_over_that_of_all(metric: str, share: float, rng: np.random.Generator) -> None:
    distinct = rng.permutation(4000) / 4000
    top = np.argsort(-distinct)[: round(share * 4000)]
    assert measure(distinct, Y)[metric] == pytest.approx(Y[top].mean() / Y.mean())


def test_lift_shares_out_a_run_of_equal_probabilities() -> None:
    """10 instants of 100 are the top; of 4 equal ones that the cut goes through, one counts: a quarter of each."""
    p = np.concatenate([np.full(9, 0.9), np.full(4, 0.5), np.full(87, 0.1)])
    y = np.concatenate([np.ones(6), np.zeros(3), np.ones(2), np.zeros(89)]).astype(np.bool_)
    assert measure(p, y)["lift_10"] == pytest.approx((6 + 2 / 4) / 10 / 0.08)


def test_whom_nothing_tells_apart_have_no_lift() -> None:
    found = measure(np.full(4000, 0.5), Y)
    assert [found[metric] for metric in LIFTS] == pytest.approx([1.0] * 3)


def test_one_class_alone_has_no_metrics() -> None:
    assert np.isnan(list(measure(P, np.zeros(4000, np.bool_)).values())).all()


def test_a_bootstrap_by_user_is_wider_when_a_users_events_are_copies() -> None:
    users = np.arange(4000)
    alone = bootstrap(P, Y, users, draws=60, seed=1)
    copies = bootstrap(np.repeat(P[:400], 10), np.repeat(Y[:400], 10), np.repeat(users[:400], 10), draws=60, seed=1)
    for name in METRICS:
        assert alone[name].low <= alone[name].high
        assert copies[name].high - copies[name].low > alone[name].high - alone[name].low
    assert alone["auc"].low < alone["auc"].value < alone["auc"].high


def test_platt_finds_the_slope_and_the_intercept(rng: np.random.Generator) -> None:
    logits = rng.normal(-2, 2, 40_000)
    truth = rng.random(40_000) < 1 / (1 + np.exp(-(0.6 * logits - 0.5)))
    slope, intercept = platt(logits, truth)
    assert slope == pytest.approx(0.6, abs=0.05)
    assert intercept == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize(("scale", "shift"), [(0.5, -3.0), (3.0, -20.0), (0.1, 10.0)])
def test_platt_finds_them_from_afar(scale: float, shift: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(-2, 1.5, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-logits))
    slope, intercept = platt(scale * logits + shift, truth)
    near = platt(logits, truth)
    assert (slope * scale, slope * shift + intercept) == pytest.approx(near, rel=1e-5, abs=1e-5)


def test_platt_never_turns_the_ranks(rng: np.random.Generator) -> None:
    logits = rng.normal(size=1000)
    assert platt(logits, logits < 0)[0] > 0


def test_each_horizon_is_calibrated_on_its_own_members(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(6000, 3))
    truth = rng.random((6000, 3)) < 1 / (1 + np.exp(-logits))
    truth[:3000, 2] = False
    inside = np.ones((6000, 3), np.bool_)
    inside[:3000, 2] = False
    found = fit(logits, truth, inside)
    assert found.slopes == pytest.approx([1, 1, 1], abs=0.15)
    assert found.intercepts == pytest.approx([0, 0, 0], abs=0.15)


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        pytest.param(Estimate(0.9069, 0.8994, 0.914), ".907 (.899–.914)", id="below 1"),
        pytest.param(Estimate(1.0, 0.96, 1.0), "1.000 (.960–1.000)", id="1"),
        pytest.param(Estimate(-0.012, -0.02, -1.5), "-.012 (-.020–-1.500)", id="a difference may be negative"),
        pytest.param(Estimate(10.456, 0.001, 20.0), "10.456 (.001–20.000)", id="a log loss may be 10 and more"),
    ],
)
def test_an_estimate_keeps_its_digits(estimate: Estimate, shown: str) -> None:
    assert interval(estimate) == shown


def test_a_difference_is_told_with_its_signs() -> None:
    assert Estimate(0.0213, -0.0041, 10.003).signed() == "+0.021 (-0.004 to +10.003)"
    assert Estimate(0.00714, 0.00361, 0.01).signed(digits=4) == "+0.0071 (+0.0036 to +0.0100)"
