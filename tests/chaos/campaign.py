"""A whole campaign: its clusters, one after another, and all episodes on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tests.chaos import episode, process
from tests.chaos.admin import AUTHORIZER
from tests.chaos.episode import Result
from tests.chaos.faults import KINDS
from tests.chaos.plan import Episode, plan
from tests.chaos.process import Scorer
from worker.errors import SettingError
from worker.kafka.broker import EmbeddedBroker


def properties(*, nodes: int) -> dict[str, str]:
    """Server properties of a cluster that takes every fault."""
    cleaner = {"log.cleaner.backoff.ms": "300", "log.initial.task.delay.ms": "500"}  # 15 and 30 s by default
    return cleaner | (AUTHORIZER if nodes == 1 else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What to run."""

    seed: int
    faults: int
    kinds: Sequence[str] = tuple(KINDS)
    scorer: Scorer = "bundle"

    def episodes(self) -> tuple[Episode, ...]:
        """The plan. Raises `SettingError` for a kind that there is not."""
        for kind in self.kinds:
            if kind not in KINDS:
                raise SettingError(f"there is no kind of fault called {kind!r}; there are {', '.join(KINDS)}")
        return plan(self.seed, faults=self.faults, kinds={kind: KINDS[kind].needs for kind in self.kinds})


def run(
    campaign: Campaign,
    *,
    folder: Path,
    tell: Callable[[Episode, str], None] = lambda _, __: None,
    done: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Blocks for a minute an episode. `folder`, new or empty, keeps logs and state of brokers and workers."""
    if folder.exists() and any(folder.iterdir()):
        raise SettingError(f"{folder} is not empty; name a new folder for what this campaign leaves")
    process.prepare(campaign.scorer)
    results = []
    for nodes, episodes in groupby(campaign.episodes(), key=lambda one: one.nodes):
        with EmbeddedBroker(folder / f"kafka-{nodes}", nodes=nodes, properties=properties(nodes=nodes)) as broker:
            for one in episodes:
                result = episode.run(
                    one,
                    broker,
                    scorer=campaign.scorer,
                    folder=folder / f"episode-{one.number}",
                    tell=lambda what, one=one: tell(one, what),  # type: ignore[misc]  # bound per episode
                )
                results.append(result)
                done(result)
    return results
