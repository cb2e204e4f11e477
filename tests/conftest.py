"""What every test may use: one real Kafka for the whole run, and settings that no other test shares."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from worker import config
from worker.kafka import topics
from worker.kafka.broker import EmbeddedBroker
from worker.settings import Settings

# A shell starts background jobs with SIGINT ignored, and children inherit that: a Ctrl-C sent by a test would be lost.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A broker of the tests does not live long enough for the work of Java's second compiler to pay.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# Time limits are pytest-timeout's: how fast hypothesis draws says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")

# These say where something is on this machine; they do not change what the code under test does.
PLACES = {"INTENT_GA360", "INTENT_JAVA"}

MakeSettings = Callable[..., Settings]


@pytest.fixture
def rng() -> np.random.Generator:
    """One of its own for each test: what a test draws must not depend on which ran before it."""
    return np.random.default_rng(11)


@pytest.fixture
def terminal() -> Iterator[None]:
    """Children hear when a terminal closes, also where the tests themselves run under `nohup`, which they inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need a broker come first, in the order that was drawn: they are the long ones, and of two processes
    that share the files the one that ends first would wait for the other's last.
    """
    long = {item.path for item in items if item.get_closest_marker("broker")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def nothing_from_outside() -> Iterator[None]:
    """No setting of the person who runs the tests reaches them, from the environment or from an `intent.toml`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(config.PREFIX) and name not in PLACES]:
            patch.delenv(name)
        patch.setenv(config.PREFIX + "CONFIG", os.devnull)
        yield


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap servers of a real Kafka with one node. It dies with this process, however that ends."""
    with EmbeddedBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> MakeSettings:
    """Make settings with topics and an application of their own, and create the topics.

    Sections given replace ours field by field: `settings(topics={"partitions": 2})`.
    """

    def make(**sections: dict[str, object]) -> Settings:
        mark = uuid.uuid4().hex[:8]
        ours: dict[str, dict[str, object]] = {
            "kafka": {"bootstrap_servers": kafka},
            "topics": {name: f"{mark}.{name}" for name in ("events", "scores", "latest", "dead_letters", "shadow")},
            "worker": {"application_id": f"test-{mark}", "data_dir": tmp_path / "state", "web_port": 0},
        }
        made = config.load(
            {name: ours.get(name, {}) | sections.get(name, {}) for name in ours.keys() | sections.keys()}
        )
        topics.create(made)
        return made

    return make
