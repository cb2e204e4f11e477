"""A model that is slower than events come: queues are full, and nothing is fetched for longer than a group waits."""

import sys
from pathlib import Path

import pytest

from tests.conftest import MakeSettings
from tests.integration.deployment import ROOT, Worker, publish, until
from tests.integration.stories import event
from tests.integration.test_worker import drained
from worker.ports import free_port

pytestmark = pytest.mark.broker

START_MS = 1_760_000_000_000
EVENTS = 30
RECOVERY_S = 5
"""The least that the setting takes; aiokafka leaves the group after so long without a fetch."""


def test_a_worker_that_has_left_its_group_meanwhile_comes_back(settings: MakeSettings, tmp_path: Path) -> None:
    own = settings(
        topics={"partitions": 1},
        worker={
            "web_port": free_port(),
            "recovery_timeout_s": RECOVERY_S,
            "max_batch_events": EVENTS // 3,
            "max_queued_events": 1,
        },
    )
    events = (event(f"user-{number}", number, START_MS + number * 1000) for number in range(EVENTS))
    publish(own.kafka.bootstrap_servers, own.topics.events, events)
    slow = (sys.executable, "-m", "tests.integration.slow", str(RECOVERY_S + 3))
    worker = Worker(own, tmp_path / "worker.log", command=slow, environment={"PYTHONPATH": str(ROOT)})
    try:
        worker.start()
        until(lambda: worker.metric("intent_rebalances_total")[()] > 1, worker, "it is assigned again", 60)
        until(lambda: drained(worker, EVENTS), worker, "all events are done")
        assert worker.stop() == 0
    finally:
        worker.close()
