"""Batching policies: latencies computed by hand, and that real threads score every window once."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loadtest import batching, queueing, schedulers
from loadtest.queueing import GREEDY, LATE_FREEZE, POLICIES, Costs, Policy
from loadtest.scorers import work
from worker.scoring import bundle
from worker.scoring.engine import Engine

TIMER = Policy(name="timer", overlap=True, timer_s=5.0)
WINDOWS = work.made(None, events=2000, pool=60).windows["real"]


def costs(*, host_s: float = 0.0, device_s: float = 10.0, device_token_s: float = 0.0, budget: int = 100) -> Costs:
    return Costs(host_s=host_s, host_token_s=0.0, device_s=device_s, device_token_s=device_token_s, budget=budget)


@pytest.mark.parametrize(
    ("policy", "cost", "due", "latencies"),
    [
        # one at 0 is computed until 10; the two behind it go together until 20
        pytest.param(GREEDY, costs(), [0, 1, 2], [10, 19, 18], id="greedy takes what waits"),
        # 0-2-12; frozen only at 12, so that the one of 11 goes along: 14-24
        pytest.param(GREEDY, costs(host_s=2), [0, 1, 11], [12, 23, 13], id="greedy: host and device take turns"),
        # 0-2-12; frozen at 10 without the one of 11, computed 12-22; that one frozen at 20, computed 22-32
        pytest.param(LATE_FREEZE, costs(host_s=2), [0, 1, 11], [12, 21, 21], id="late freeze: ready when it is free"),
        pytest.param(LATE_FREEZE, costs(host_s=2), [0, 1, 9], [12, 21, 13], id="late freeze: as late as that allows"),
        # an idle device waits for nothing
        pytest.param(LATE_FREEZE, costs(), [0, 50], [10, 10], id="late freeze: at once when idle"),
        # frozen at 5 with the one of 3, computed until 15, when the one of 9 has not waited for 5 but 6
        pytest.param(TIMER, costs(), [0, 3, 9], [15, 12, 16], id="timer: the first waits for the others"),
        # two of one token fill the budget; the third shows it at 2, before the timer
        pytest.param(TIMER, costs(budget=2), [0, 1, 2, 20], [12, 11, 20, 15], id="timer: a full batch goes at once"),
        # budget 2: two, then one
        pytest.param(GREEDY, costs(budget=2), [0, 0, 0], [10, 10, 20], id="no batch exceeds the budget"),
        # 10 and 1 a token: one token 11, two tokens 12
        pytest.param(GREEDY, costs(device_token_s=1), [0, 1, 2], [11, 22, 21], id="tokens cost"),
    ],
)
def test_latencies_are_those_computed_by_hand(
    policy: Policy, cost: Costs, due: list[float], latencies: list[float]
) -> None:
    found = queueing.simulate(np.array(due, float), np.ones(len(due), np.int64), cost, policy)
    assert found.tolist() == pytest.approx(latencies)


def test_a_window_larger_than_the_budget_goes_alone() -> None:
    found = queueing.simulate(np.zeros(3), np.array([1, 500, 1]), costs(), GREEDY)
    assert found.tolist() == [10, 20, 30]


def test_without_a_host_to_hide_late_freeze_is_greedy() -> None:
    due = queueing.poisson(50, 2000, np.random.default_rng(1))
    tokens = np.random.default_rng(2).integers(2, 65, 2000)
    cost = costs(device_s=0.004, device_token_s=1e-5, budget=1000)
    assert queueing.simulate(due, tokens, cost, LATE_FREEZE) == pytest.approx(
        queueing.simulate(due, tokens, cost, GREEDY)
    )


def test_capacity_is_that_of_the_slower_of_host_and_device() -> None:
    assert costs(budget=100).capacity(5) == 2.0
    assert costs(budget=100, host_s=40).capacity(5) == 0.5


class Recorder:
    """Stands where a scorer does, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []

    def arrange(self, windows: Sequence[bytes]) -> list[bytes]:
        return list(windows)

    def forward(self, arranged: list[bytes]) -> Any:
        self.batches.append(arranged)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_policy_scores_each_window_once_in_order_within_the_budget(policy: Policy) -> None:
    scorer = Recorder()
    due = queueing.poisson(5000, len(WINDOWS), np.random.default_rng(1))
    latency = schedulers.Scheduler(scorer, policy, budget=200).play(WINDOWS, due)
    assert [window for batch in scorer.batches for window in batch] == WINDOWS
    assert max(int(work.positions(batch).sum()) for batch in scorer.batches) <= 200
    assert (latency > 0).all()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_backlog_goes_in_full_batches(policy: Policy) -> None:
    scorer = Recorder()
    schedulers.Scheduler(scorer, policy, budget=200).play(WINDOWS, np.zeros(len(WINDOWS)))
    most = work.batches(WINDOWS, "200t", most=1000)
    assert scorer.batches[: len(most)] == most


def test_capacity_is_not_that_of_a_cold_start() -> None:
    took_s = iter([60.0, 2.0, 4.0, 3.0])
    found = schedulers.saturated(lambda some, _: np.linspace(0, next(took_s), len(some)), WINDOWS)
    assert found == len(WINDOWS) / 3


def test_the_engine_itself_answers_for_every_window() -> None:
    with Engine(bundle.load, device="cpu") as engine:
        latency = schedulers.play_engine(
            engine, WINDOWS, queueing.poisson(2000, len(WINDOWS), np.random.default_rng(1))
        )
    assert latency.shape == (len(WINDOWS),)
    assert (latency > 0).all()


class Timed(Recorder):
    """Each batch takes what the costs say, of a clock of its own; they may be such as only noise shows."""

    def __init__(self, told: Costs) -> None:
        super().__init__()
        self.now_s = 0.0
        self._told = told

    def arrange(self, windows: Sequence[bytes]) -> list[bytes]:
        self.now_s += self._told.host(int(work.positions(windows).sum()))
        return super().arrange(windows)

    def forward(self, arranged: list[bytes]) -> Any:
        self.now_s += self._told.device(int(work.positions(arranged).sum()))
        return super().forward(arranged)


def fitted(told: Costs, monkeypatch: pytest.MonkeyPatch) -> Costs:
    scorer = Timed(told)
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=lambda: scorer.now_s))
    return batching.fit(scorer, WINDOWS, budget=told.budget)


def test_costs_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Costs(host_s=0.001, host_token_s=1e-5, device_s=0.02, device_token_s=3e-5, budget=500)
    assert astuple(fitted(told, monkeypatch)) == pytest.approx(astuple(told))


def test_no_cost_is_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Costs(host_s=-0.001, host_token_s=1e-4, device_s=0.1, device_token_s=-1e-5, budget=500)
    found = fitted(told, monkeypatch)
    assert (found.host_s, found.device_token_s) == (0, 0)
    assert (found.host_token_s, found.device_s) == pytest.approx((1e-4, 0.1))


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    found = {(policy.name, load): np.linspace(0.001, 0.02, 50) for policy in POLICIES for load in (0.2, 0.9)}
    batching._plot(found, found, tmp_path / "plot.png", title="made up")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
