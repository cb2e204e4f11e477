"""Models change under a running worker: every event is scored once, by one of them, and the challenger harms nobody."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.conftest import MakeSettings
from tests.integration.deployment import Read, Worker, publish, read_all, until
from tests.integration.stories import Record, event
from tests.integration.verdict import Verdict, by_partition, value
from worker.ports import free_port
from worker.registry.alias import promoted, rolled_back
from worker.registry.source import push
from worker.registry.store import Store
from worker.scoring import bundle as bundles
from worker.stream.shadow import chosen

pytestmark = pytest.mark.broker

NAME = bundles.SHIPPED.name
SHARE = 0.3
START_MS = 1_760_000_000_000
CERTAIN = 0.9
"""The second version's scores lie above, those of the shipped one below."""


def story(users: int = 200) -> Iterator[Record]:
    """Endless: every user looks at things in turn."""
    return (event(f"user-{n % users}", n // users, START_MS + n * 100) for n in itertools.count())


class Registry:
    """The store of one deployment, with two versions of the shipped model."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder / "store"))
        self.first = push(self.store, bundles.SHIPPED)[0].version
        other = folder / "other"
        shutil.copytree(bundles.SHIPPED, other)
        (other / "calibration.json").write_text(json.dumps({"slopes": [1e-6] * 3, "intercepts": [6.0] * 3}))
        bundles.seal(other)
        self.second = push(self.store, other)[0].version

    def point(self, alias: str, version: str) -> None:
        self.store.move(NAME, alias, promoted(self.store.alias(NAME, alias), version, at=""))

    def roll_back(self, alias: str) -> None:
        now = self.store.alias(NAME, alias)
        assert now is not None
        self.store.move(NAME, alias, rolled_back(now, at=""))

    def damaged(self) -> str:
        """A version whose weights rot after they were pushed."""
        folder = Path(self.store.url).parent / "rotten"
        shutil.copytree(bundles.SHIPPED, folder)
        (folder / "card.md").write_text("# rotten\n")
        bundles.seal(folder)
        version = push(self.store, folder)[0].version
        weights = Path(self.store.url) / NAME / version / "head.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        return version


class Shop:
    """Events on order, and what became of them."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.settings = worker.settings
        self.servers = self.settings.kafka.bootstrap_servers
        self.sent = 0
        self._events = story()

    def sell(self, count: int) -> None:
        self.sent += publish(self.servers, self.settings.topics.events, itertools.islice(self._events, count))

    def sell_until(self, condition: Callable[[], bool], what: str) -> None:
        """Events keep coming meanwhile."""

        def met() -> bool:
            self.sell(50)
            return condition()

        until(met, self.worker, what)

    def drain(self) -> list[Read]:
        """All scores, once every event has one: the oracle's windows, each once."""
        until(lambda: self.number("scores_total") == self.sent, self.worker, "all events are scored")
        verdict = Verdict(self.settings.topics.events, read_all(self.servers, self.settings.topics.events))
        scores = read_all(self.servers, self.settings.topics.scores)
        verdict.check_scores(scores)
        verdict.check_order(scores)
        return scores

    def number(self, name: str, *labels: str) -> float | None:
        return self.worker.metric(f"intent_{name}").get(labels)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def start(settings: MakeSettings, registry: Registry, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """A worker that follows the store, started; the first version is its champion."""
    registry.point("champion", registry.first)
    made: list[Worker] = []

    def start(**model: object) -> Shop:
        own = {"store": registry.store.url, "name": NAME, "reload_interval_s": 0.2}
        worker = {"web_port": free_port(), "data_dir": tmp_path / "state", "max_batch_events": 100}
        made.append(Worker(settings(model=own | model, worker=worker), tmp_path / "worker.log"))
        made[-1].start()
        return Shop(made[-1])

    yield start
    for worker in made:
        worker.close()


def test_an_alias_moves_under_load_and_every_event_is_scored_once_by_one_model(
    start: Callable[..., Shop], registry: Registry
) -> None:
    shop = start()
    scoring = partial(shop.number, "model_info", NAME)
    shop.sell(500)
    registry.point("champion", registry.second)
    shop.sell_until(lambda: scoring(registry.second) == 1, "the second version scores")
    shop.sell(200)
    rotten = registry.damaged()
    registry.point("champion", rotten)
    shop.sell_until(lambda: shop.number("model_refused", "champion") == 1, "the rotten version is refused")
    assert scoring(registry.second) == 1
    registry.roll_back("champion")
    shop.sell_until(lambda: shop.number("model_refused", "champion") == 0, "nothing is refused any more")
    scores = shop.drain()
    for records in by_partition(scores).values():
        versions = [value(score)["model"]["version"] for score in records]
        assert [version for version, _ in itertools.groupby(versions)] == [registry.first, registry.second]
    for score in map(value, scores):
        certain = {chance > CERTAIN for chance in score["intent"].values()}
        assert certain == {score["model"]["version"] == registry.second}
    (refused,) = {line["error"] for line in shop.worker.told() if line.get("refused") == rotten}
    assert "head.safetensors does not match" in refused
    assert shop.worker.stop() == 0


def refuse(shop: Shop) -> None:
    """The shadow topic takes no record of any size from now on."""
    resource = ConfigResource(
        ResourceType.TOPIC,
        shop.settings.topics.shadow,
        incremental_configs=[
            ConfigEntry("max.message.bytes", "1", incremental_operation=AlterConfigOpType.SET),
        ],
    )
    admin = AdminClient({"bootstrap.servers": shop.servers})
    (done,) = admin.incremental_alter_configs([resource]).values()
    done.result(10)


def delete(shop: Shop) -> None:
    admin = AdminClient({"bootstrap.servers": shop.servers})
    (done,) = admin.delete_topics([shop.settings.topics.shadow]).values()
    done.result(10)


def test_a_challenger_scores_its_share_of_users_and_a_refusing_or_missing_topic_stops_nobody(
    start: Callable[..., Shop], registry: Registry
) -> None:
    registry.point("challenger", registry.second)
    shop = start(shadow_share=SHARE)
    until(lambda: shop.number("challenger_info", NAME, registry.second) == 1, shop.worker, "the challenger is there")
    shop.sell(2_000)
    scores = shop.drain()
    due = {value(score)["score_id"]: value(score) for score in scores if chosen(score.key or b"", SHARE)}
    settled = partial(settled_scores, shop)
    until(lambda: settled() == len(due), shop.worker, "every shadow score is published or dropped")
    shadows = read_all(shop.servers, shop.settings.topics.shadow)
    assert len(shadows) == shop.number("shadow_scores_total")
    assert len(shadows) > 0.9 * len(due)
    assert len({value(shadow)["score_id"] for shadow in shadows}) == len(shadows)
    for shadow in shadows:
        score = value(shadow)
        champion = due[score["score_id"]]
        assert shadow.headers["ce_type"] == b"intent.score.shadow.v1"
        assert (score["model"]["version"], champion["model"]["version"]) == (registry.second, registry.first)
        assert score["intent"]["purchase_24h"] > CERTAIN
        for same in ("event_id", "user_id", "source", "window"):
            assert score[same] == champion[same]
    mean = (shop.number("shadow_difference_sum") or 0) / (shop.number("shadow_difference_count") or 1)
    assert CERTAIN / 2 < mean < 1

    refuse(shop)
    shop.sell(400)
    shop.drain()
    until(lambda: (shop.number("shadow_dropped_total", "kafka") or 0) > 0, shop.worker, "refusals are counted")
    delete(shop)
    shop.sell(400)
    assert len(shop.drain()) == shop.sent
    assert shop.worker.stop() == 0


def settled_scores(shop: Shop) -> float:
    dropped = shop.worker.metric("intent_shadow_dropped_total")
    return sum(dropped.values()) + (shop.number("shadow_scores_total") or 0)
