"""A stop whose brokers do not answer: it waits for what is not committed, and for nothing else."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import MakeSettings
from tests.integration.deployment import DIGEST, ROOT, Worker, publish, until
from tests.integration.stories import event
from tests.integration.test_worker import drained
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port

pytestmark = pytest.mark.broker

START_MS = 1_760_000_000_000
EVENTS = 200


def test_once_all_is_committed_a_stop_waits_for_no_broker(settings: MakeSettings, tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "kafka") as broker:
        own = settings(
            kafka={"bootstrap_servers": broker.bootstrap_servers},
            worker={"web_port": free_port(), "shutdown_timeout_s": 60},
        )
        worker = Worker(own, tmp_path / "worker.log", command=DIGEST, environment={"PYTHONPATH": str(ROOT)})
        try:
            worker.start()
            events = (event(f"user-{number % 20}", number, START_MS + number * 1000) for number in range(EVENTS))
            publish(broker.bootstrap_servers, own.topics.events, events)
            until(lambda: drained(worker, EVENTS), worker, "all events are done")
            broker.pause(1)
            began_s = time.monotonic()
            assert worker.stop() == 0
            assert time.monotonic() - began_s < own.worker.shutdown_timeout_s / 2
            assert [line["waited_s"] for line in worker.told() if "waited_s" in line] == [3.0]
        finally:
            worker.close()


def test_signals_that_ask_show_no_event_and_stop_nothing(settings: MakeSettings, tmp_path: Path) -> None:
    own = settings(worker={"web_port": free_port()})
    worker = Worker(own, tmp_path / "worker.log", command=DIGEST, environment={"PYTHONPATH": str(ROOT)})
    questions, answers = os.pipe()
    try:
        worker.start(stdin=questions)  # a debugger would wait there for its commands
        assert worker.process is not None
        worker.process.send_signal(signal.SIGUSR1)
        until(lambda: "Stack for <Task" in worker.said(), worker, "it tells where its tasks are")
        assert "VARIABLES" not in worker.log.read_text()
        worker.process.send_signal(signal.SIGUSR2)
        publish(own.kafka.bootstrap_servers, own.topics.events, [event("user", 1, START_MS)])
        until(lambda: drained(worker, 1), worker, "the event is done")
        assert worker.stop() == 0
    finally:
        worker.close()
        os.close(questions)
        os.close(answers)
