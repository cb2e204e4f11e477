"""A commit that Kafka acknowledged and never marked, as its only node did when it was stopped meanwhile: the records
stay open for ever, unless the next owner ends them. Readers of committed records see each score once all the same.
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.audit import Findings
from tests.chaos.outcome import examine
from tests.conftest import MakeSettings
from tests.integration.deployment import DIGEST, ROOT, Worker, publish, read_all, until
from tests.integration.stories import event
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

START_MS = 1_760_000_000_000


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka that takes a transaction's records without asking the coordinator for it."""
    properties = {"transaction.partition.verification.enable": "false"}
    with EmbeddedBroker(tmp_path_factory.mktemp("trusting"), properties=properties) as broker:
        yield broker.bootstrap_servers


@pytest.mark.parametrize(
    ("then", "ahead"),
    [
        pytest.param(signal.SIGKILL, False, id="not stored"),
        pytest.param(signal.SIGTERM, True, id="stored"),
    ],
)
def test_a_commit_without_markers_is_taken_back_and_done_again(
    settings: MakeSettings, trusting: str, tmp_path: Path, then: signal.Signals, ahead: bool
) -> None:
    own = settings(
        kafka={"bootstrap_servers": trusting},
        topics={"partitions": 1},
        worker={"instance_id": "only", "web_port": free_port()},
    )
    order, topic = tmp_path / "forget", own.topics.events
    forgetful = (sys.executable, "-m", "tests.integration.markerless", str(order), str(int(then)))
    worker, successor = (
        Worker(own, tmp_path / f"{name}.log", command=command, environment={"PYTHONPATH": str(ROOT)})
        for name, command in (("forgetful", forgetful), ("successor", DIGEST))
    )
    try:
        worker.start()
        publish(trusting, topic, (event(f"user-{number % 5}", number, START_MS + number) for number in range(50)))
        until(lambda: len(read_all(trusting, own.topics.scores)) == 50, worker, "the first events are done")
        order.touch()
        publish(trusting, topic, [event("user-1", 50, START_MS + 50)])
        assert worker.process is not None
        worker.process.wait(30)
        assert len(read_all(trusting, own.topics.scores)) == 50
        assert len(read_all(trusting, own.topics.scores, isolation="read_uncommitted")) == 51
        if ahead:
            successor.start(wait=False)
            assert successor.process is not None
            assert successor.process.wait(60) == 1
        successor.start()
        assert "hanging transaction aborted" in successor.said()
        assert ("is ahead" in successor.said()) is ahead
        publish(trusting, topic, (event(f"user-{number % 5}", number, START_MS + number) for number in range(51, 80)))
        until(lambda: len(read_all(trusting, own.topics.scores)) >= 80, successor, "all events are done")
        _, found = examine(own)
        assert found == Findings()
    finally:
        worker.close()
        successor.close()
