"""Paired differences: what is better wins, what is equal does not, and the numbers are those of a plain loop."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.unit.evaluation import making
from worker.evaluation.compare import BUNDLE, TREES, Comparison, Scored, compare
from worker.evaluation.slices import EVERY
from worker.evaluation.targets import MARGIN, targets
from worker.training.labels import NAMES
from worker.training.metrics import METRICS, Estimate, estimates, resampled

AUC, AP = METRICS.index("auc"), METRICS.index("ap")


def whole(found: list[Comparison], horizon: str = "24 h") -> Comparison:
    return next(one for one in found if (one.by, one.horizon) == (EVERY, horizon))


def test_a_planted_better_scorer_wins_and_an_equal_one_does_not() -> None:
    rng = np.random.default_rng(5)
    found = compare(making.scored(rng, noise={BUNDLE: 0.1, TREES: 1.5, "as good": 0.1}), draws=100)
    assert {one.horizon for one in found} == set(NAMES)
    for metric in ("auc", "ap", "lift_10"):
        assert whole(found).differences[TREES][metric].low > 0
    for metric in ("log_loss", "brier"):  # less is better
        assert whole(found).differences[TREES][metric].high < 0
    equal = whole(found).differences["as good"]
    assert equal["auc"].low < 0 < equal["auc"].high
    assert equal["ap"].low < 0 < equal["ap"].high


def test_a_scorer_beside_itself_differs_by_nothing() -> None:
    scored = making.scored(np.random.default_rng(6), noise={BUNDLE: 0.5})
    same = Scored(
        member=scored.member,
        y=scored.y,
        visitor=scored.visitor,
        populations=scored.populations,
        scorers={BUNDLE: scored.scorers[BUNDLE], "itself": scored.scorers[BUNDLE]},
    )
    for one in compare(same, draws=10):
        assert one.differences.keys() == {"itself"}
        assert set(one.differences["itself"].values()) == {Estimate(0, 0, 0)}


def test_paired_differences_are_those_of_a_loop_that_writes_out_each_resample() -> None:
    rng = np.random.default_rng(7)
    user = rng.integers(0, 12, 60)
    y = rng.random(60) < 0.4
    one, other = np.round(rng.random(60), 1), np.round(y * 0.3 + rng.random(60), 1)  # with ties
    samples = resampled({"one": one, "other": other}, y, user, draws=15, seed=3)
    again = np.random.default_rng(3)
    people = np.unique(user)
    for row in range(1, 16):
        drawn = again.integers(0, len(people), len(people))
        rows = np.concatenate([np.flatnonzero(user == people[who]) for who in drawn])
        for name, p in (("one", one), ("other", other)):
            assert samples[name][row, AUC] == pytest.approx(roc_auc_score(y[rows], p[rows]))
            assert samples[name][row, AP] == pytest.approx(average_precision_score(y[rows], p[rows]))
    difference = samples["one"] - samples["other"]
    found = estimates(difference)["auc"]
    assert found.value == pytest.approx(roc_auc_score(y, one) - roc_auc_score(y, other))
    assert [found.low, found.high] == pytest.approx(np.percentile(difference[1:, AUC], [2.5, 97.5]))


def test_a_paired_interval_is_narrower_than_two_of_their_own() -> None:
    rng = np.random.default_rng(8)
    scored = making.scored(rng, noise={BUNDLE: 0.3, "near": 0.35})
    found = whole(compare(scored, draws=100))
    apart = sum(estimate["auc"].high - estimate["auc"].low for estimate in found.scorers.values())
    assert found.differences["near"]["auc"].high - found.differences["near"]["auc"].low < apart / 2


def test_each_horizon_is_measured_on_its_own_members_and_labels() -> None:
    rng = np.random.default_rng(10)
    scored = making.scored(rng, noise={BUNDLE: 0.5})
    scored = replace(scored, member=rng.random(scored.y.shape) < np.array([0.3, 0.6, 0.9]))
    found = compare(scored, draws=2)
    assert len(found) == 2 * len(NAMES)
    for one in found:
        at = NAMES.index(one.horizon)
        rows = np.flatnonzero(scored.populations[one.by][one.population] & scored.member[:, at])
        y, p = scored.y[rows, at], scored.scorers[BUNDLE][rows, at]
        assert (one.instants, one.visitors) == (len(rows), len(set(scored.visitor[rows].tolist())))
        assert one.base_rate == pytest.approx(y.sum() / len(rows))
        assert one.scorers[BUNDLE]["auc"].value == pytest.approx(roc_auc_score(y, p))


def test_a_population_of_few_buyers_is_not_measured() -> None:
    found = compare(making.scored(np.random.default_rng(9), noise={BUNDLE: 0.5}), draws=10)
    assert {one.population for one in found} == {EVERY, "3rd event"}
    half = next(one for one in found if one.population == "3rd event")
    assert (half.instants, half.visitors) == (making.VISITORS * making.EACH // 2, making.VISITORS)


def test_a_population_of_few_who_do_not_buy_is_not_measured() -> None:
    scored = making.scored(np.random.default_rng(9), noise={BUNDLE: 0.5})
    assert compare(replace(scored, y=scored.y | (scored.visitor >= 9)[:, None]), draws=1) == []


@pytest.mark.parametrize("of_buyers", [True, False], ids=["buy", "do not buy"])
@pytest.mark.parametrize(("visitors", "measured"), [(9, False), (10, True)])
def test_ten_visitors_of_either_outcome_are_enough(visitors: int, *, measured: bool, of_buyers: bool) -> None:
    scored = making.scored(np.random.default_rng(9), noise={BUNDLE: 0.5})
    few = scored.visitor < visitors
    y = np.repeat((few if of_buyers else ~few)[:, None], 3, axis=1)
    heard: list[str] = []
    found = compare(replace(scored, y=y), draws=5, report=heard.append)
    assert bool(found) == measured
    assert heard == [f"{one.horizon}, {one.population}" for one in found]


def comparison(horizon: str, *, lead: Estimate, ece: float) -> Comparison:
    metrics = {BUNDLE: {"ece": Estimate(ece, ece, ece)}}
    differences = {TREES: {"auc": lead, "ap": lead}}
    return Comparison(
        horizon=horizon,
        by=EVERY,
        population=EVERY,
        instants=1,
        visitors=1,
        base_rate=0.1,
        scorers=metrics,
        differences=differences,
    )


@pytest.mark.parametrize(
    ("horizon", "lead", "ece", "met"),
    [
        pytest.param("24 h", Estimate(0.03, 0.01, 0.05), 0.01, [True, True, True], id="clear of zero"),
        pytest.param("24 h", Estimate(0.03, -0.01, 0.07), 0.01, [False, False, True], id="may be chance"),
        pytest.param("24 h", Estimate(0.01, 0.005, 0.015), 0.02, [False, True, True], id="a lead too small in AP"),
        pytest.param("7 d", Estimate(-0.01, -0.03, 0.01), 0.021, [True, True, False], id="no worse, badly calibrated"),
        pytest.param("30 min", Estimate(-0.02, -0.03, -0.01), 0.0, [False, False, True], id="worse"),
    ],
)
def test_targets_are_met_or_not(horizon: str, lead: Estimate, ece: float, met: list[bool]) -> None:
    found = targets([comparison(horizon, lead=lead, ece=ece)], rival=TREES)
    assert [target.what.split(",")[0] for target in found] == [*(name.upper() for name in MARGIN), "ECE"]
    assert [target.met for target in found] == met


def test_without_the_rival_only_the_calibration_is_judged() -> None:
    found = targets([comparison("24 h", lead=Estimate(0, 0, 0), ece=0.1)], rival="nobody")
    assert [(target.what, target.met) for target in found] == [("ECE", False)]
