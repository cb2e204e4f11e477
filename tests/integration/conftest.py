"""A deployment per test: topics of its own on the shared broker, a free port, a folder of its own."""

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.deployment import Worker
from worker import config
from worker.config import Settings
from worker.kafka import topics

Deploy = Callable[..., Worker]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def settings_for(servers: str, folder: Path, **worker: object) -> Settings:
    """Names that no other test has."""
    mark = uuid.uuid4().hex[:8]
    names = {name: f"{mark}.{name}" for name in ("events", "scores", "latest", "dead_letters", "shadow")}
    return config.load(
        {
            "kafka": {"bootstrap_servers": servers},
            "topics": names,
            "worker": {
                "application_id": f"test-{mark}",
                "data_dir": folder / "state",
                "web_port": free_port(),
                "instance_id": f"worker-{mark}",  # a restart then joins at once, not after the session's time-out
                **worker,
            },
        }
    )


@pytest.fixture
def deploy(kafka: str, tmp_path: Path) -> Iterator[Deploy]:
    """Make a worker (not started) and its topics; its process is gone after the test."""
    made: list[Worker] = []

    def make(**worker: object) -> Worker:
        settings = settings_for(kafka, tmp_path, **worker)
        topics.create(settings)
        made.append(Worker(settings, tmp_path / f"worker-{len(made)}.log"))
        return made[-1]

    yield make
    for worker in made:
        worker.close()
