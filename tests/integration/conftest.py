"""A deployment per test: topics of its own on the shared broker, a free port, a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeSettings
from tests.integration.deployment import Worker
from tests.integration.secured import Certificates, Guarded, scram_over_tls
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port

Deploy = Callable[..., Worker]


@pytest.fixture
def deploy(settings: MakeSettings, tmp_path: Path) -> Iterator[Deploy]:
    """Make a worker (not started) and its topics; its process is gone after the test.

    It is a static member of its group: a restart joins at once, not after the session's time-out.
    """
    made: list[Worker] = []

    def make(**worker: object) -> Worker:
        own = {"instance_id": "only", "web_port": free_port(), "data_dir": tmp_path / "state"}
        made.append(Worker(settings(worker=own | worker), tmp_path / f"worker-{len(made)}.log"))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A Kafka that asks who is there; its inner listener does not. Its log cleaner is quick."""
    folder = tmp_path_factory.mktemp("guarded")
    certificates = Certificates(folder)
    cleaner = {"log.cleaner.backoff.ms": "300", "log.initial.task.delay.ms": "500"}  # 15 and 30 s by default
    with EmbeddedBroker(folder, properties=scram_over_tls(certificates) | cleaner) as broker:
        yield Guarded(broker, certificates)
