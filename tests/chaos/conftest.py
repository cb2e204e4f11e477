"""A cluster that may be broken, and worlds on it: deployments of their own with readers that follow."""

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.chaos import campaign, process
from tests.chaos.story import Outgoing
from tests.chaos.traffic import Traffic
from tests.chaos.workers import START_S, Workers, identities
from tests.chaos.world import World, await_
from tests.conftest import MakeSettings
from worker.kafka.broker import EmbeddedBroker

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """One node. Apart from the fixture `kafka`, which other tests rely on."""
    with EmbeddedBroker(tmp_path_factory.mktemp("cluster"), properties=campaign.properties(nodes=1)) as broker:
        yield broker


@pytest.fixture
def start(settings: MakeSettings, cluster: EmbeddedBroker, tmp_path: Path) -> Iterator[MakeWorld]:
    """Start a deployment with the digest scorer, ready, and the traffic for it."""
    process.prepare("digest")
    worlds: list[World] = []

    def make(
        story: Iterable[Outgoing] = (),
        *,
        rate: float = 300,
        topics: dict[str, object] | None = None,
        **worker: object,
    ) -> World:
        folder = tmp_path / f"world-{len(worlds)}"
        folder.mkdir()
        own = settings(
            kafka={"bootstrap_servers": cluster.bootstrap_servers},
            topics=topics or {},
            worker={"session_timeout_s": 3, "request_timeout_s": 4, "shutdown_timeout_s": 8, **worker},
        )
        each = identities(own, count=1, static=True, folder=folder)
        world = World(
            settings=own,
            broker=cluster,
            workers=Workers(each, residents=1, scorer="digest", folder=folder),
            traffic=Traffic(own.kafka.bootstrap_servers, own.topics.events, iter(story), rate=rate),
        )
        worlds.append(world)
        world.workers.start()
        assert await_(lambda: world.workers.all_ready, START_S), world.workers.places[0].said()
        world.traffic.start()
        return world

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def seed() -> int:
    """Printed when the test fails."""
    chosen = random.SystemRandom().getrandbits(32)
    print(f"seed {chosen}")  # noqa: T201 - pytest shows it beside a failure
    return chosen
