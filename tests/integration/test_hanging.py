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
from tests.integration.stories import bad, event
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port
from worker.settings import Settings

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

START_MS = 1_760_000_000_000


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka that takes a transaction's records without asking the coordinator for it."""
    properties = {"transaction.partition.verification.enable": "false"}
    with EmbeddedBroker(tmp_path_factory.mktemp("trusting"), properties=properties) as broker:
        yield broker.bootstrap_servers


def alone(settings: MakeSettings, servers: str) -> Settings:
    """One worker's, which a successor takes over: one partition, and no waiting for a session's end."""
    worker = {"instance_id": "only", "web_port": free_port()}
    return settings(kafka={"bootstrap_servers": servers}, topics={"partitions": 1}, worker=worker)


def workers(own: Settings, folder: Path, *orders: str) -> tuple[Worker, Worker]:
    """One that forgets a commit, as `markerless` is told by `orders`; and its successor, which does not."""
    forgetful = (sys.executable, "-m", "tests.integration.markerless", *orders)
    environment = {"PYTHONPATH": str(ROOT)}
    return (
        Worker(own, folder / "forgetful.log", command=forgetful, environment=environment),
        Worker(own, folder / "successor.log", command=DIGEST, environment=environment),
    )


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
    own = alone(settings, trusting)
    order, topic = tmp_path / "forget", own.topics.events
    worker, successor = workers(own, tmp_path, str(order), str(int(then)), "0")
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


@pytest.mark.parametrize(
    "counts", [pytest.param(False, id="to be done again"), pytest.param(True, id="the next one counts")]
)
def test_a_dead_letter_that_the_next_transaction_has_no_part_in_is_seen_once(
    settings: MakeSettings, trusting: str, tmp_path: Path, counts: bool
) -> None:
    """The next one ends both in the changelog. Aborted, it leaves the letter open, to be shown by a later commit beside
    the one that is written again; committed, it leaves it hidden.
    """
    own = alone(settings, trusting)
    order, topics = tmp_path / "forget", own.topics
    worker, successor = workers(own, tmp_path, str(order), str(int(signal.SIGKILL)), "1000" if counts else "1")
    first, second, *_ = bad("user-1")

    def letters(isolation: str = "read_committed") -> int:
        return len(read_all(trusting, topics.dead_letters, isolation=isolation))

    try:
        worker.start()
        publish(trusting, topics.events, (event(f"user-{n % 5}", n, START_MS + n) for n in range(50)))
        until(lambda: len(read_all(trusting, topics.scores)) == 50, worker, "the first events are done")
        order.touch()
        publish(trusting, topics.events, [first])
        until(lambda: letters("read_uncommitted") == 1, worker, "the letter is written")
        publish(trusting, topics.events, [event("user-1", 50, START_MS + 50)])
        assert worker.process is not None
        if counts:
            until(lambda: len(read_all(trusting, topics.scores)) == 51, worker, "the next one is committed")
            worker.process.kill()
        worker.process.wait(30)
        assert letters() == 0
        successor.start()
        until(lambda: len(read_all(trusting, topics.scores)) == 51, successor, "the next event is done")
        until(lambda: letters() == 1, successor, "the letter is there")
        assert "hanging transaction ended" in successor.said()
        publish(trusting, topics.events, [second])
        until(lambda: letters() >= 2, successor, "a later letter is there")
        _, found = examine(own)
        assert found == Findings()
    finally:
        worker.close()
        successor.close()
