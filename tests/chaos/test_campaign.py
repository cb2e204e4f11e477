"""Campaigns small enough for every run: all kinds of fault that one node takes, and leaders that change."""

from pathlib import Path

import pytest

from tests.chaos import campaign, episode, process, report
from tests.chaos.campaign import Campaign
from tests.chaos.episode import Result
from tests.chaos.faults import KINDS
from tests.chaos.plan import plan
from worker.errors import SettingError
from worker.kafka.broker import EmbeddedBroker

SINGLE = tuple(kind for kind, of in KINDS.items() if of.needs.nodes != 3)


def nothing_found(results: list[Result], chosen: Campaign) -> bool:
    for line in report.told(results):
        print(line)  # noqa: T201 - pytest shows it beside a failure
    print(f"python -m tests.chaos --seed {chosen.seed} --faults {chosen.faults} --kinds {','.join(chosen.kinds)}")  # noqa: T201
    return report.clean(results)


def run(chosen: Campaign, broker: EmbeddedBroker, folder: Path) -> list[Result]:
    process.prepare(chosen.scorer)
    return [
        episode.run(one, broker, scorer=chosen.scorer, folder=folder / str(one.number), tell=lambda _: None)
        for one in chosen.episodes()
    ]


@pytest.mark.broker
@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_kind_of_fault_leaves_no_trace(cluster: EmbeddedBroker, tmp_path: Path) -> None:
    chosen = Campaign(seed=1, faults=len(SINGLE), kinds=SINGLE, scorer="digest")
    results = run(chosen, cluster, tmp_path)
    assert {one.planned.kind for result in results for one in result.struck} == set(SINGLE)
    assert nothing_found(results, chosen)


@pytest.mark.broker
@pytest.mark.chaos
@pytest.mark.slow
def test_faults_that_nobody_chose_leave_no_trace(cluster: EmbeddedBroker, tmp_path: Path, seed: int) -> None:
    chosen = Campaign(seed=seed, faults=6, kinds=SINGLE, scorer="digest")
    assert nothing_found(run(chosen, cluster, tmp_path), chosen)


@pytest.mark.broker
@pytest.mark.chaos
@pytest.mark.slow
def test_leaders_that_change_leave_no_trace(tmp_path: Path) -> None:
    chosen = Campaign(seed=2, faults=2, kinds=("leader_killed", "leader_paused"), scorer="digest")
    results = campaign.run(chosen, folder=tmp_path)
    assert [len(result.struck) for result in results] == [2]
    assert nothing_found(results, chosen)


def test_a_seed_plans_the_same_faults_again() -> None:
    one, other, third = (Campaign(seed=seed, faults=60).episodes() for seed in (7, 7, 8))
    assert one == other
    assert one != third


def test_a_plan_has_every_kind_as_often_as_any_other() -> None:
    struck = [fault.kind for one in Campaign(seed=3, faults=2 * len(KINDS)).episodes() for fault in one.faults]
    assert {kind: struck.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 2)


def test_an_episode_has_what_its_faults_need() -> None:
    for one in Campaign(seed=4, faults=200).episodes():
        for fault in one.faults:
            needs = KINDS[fault.kind].needs
            assert needs.nodes in {None, one.nodes}
            assert one.residents >= needs.residents


def test_leaders_change_among_other_faults() -> None:
    episodes = plan(5, faults=100, kinds={kind: of.needs for kind, of in KINDS.items()})
    mixed = [{fault.kind for fault in one.faults} for one in episodes if one.nodes == 3]
    assert all(kinds > {"leader_killed", "leader_paused"} for kinds in mixed)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="no kind of fault called 'earthquake'; there are worker_killed, "):
        Campaign(seed=1, faults=1, kinds=("earthquake",)).episodes()
