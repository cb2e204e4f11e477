"""A commit that Kafka acknowledged and never marked, or not everywhere, as its only node did when it was stopped
meanwhile: the records stay open for ever, unless the next owner ends them. Readers of committed records see each score
once all the same.
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

pytestmark = pytest.mark.broker

START_MS = 1_760_000_000_000


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka that takes a transaction's records without asking the coordinator for it."""
    properties = {"transaction.partition.verification.enable": "false"}
    with EmbeddedBroker(tmp_path_factory.mktemp("trusting"), properties=properties) as broker:
        yield broker.bootstrap_servers


def alone(settings: MakeSettings, servers: str) -> Settings:
    """One worker's, which a successor takes over: one partition, and no waiting for a session's end nor long for a
    commit's.
    """
    worker = {"instance_id": "only", "web_port": free_port(), "transaction_timeout_s": 4}
    return settings(kafka={"bootstrap_servers": servers}, topics={"partitions": 1}, worker=worker)


def workers(own: Settings, folder: Path, *orders: str) -> tuple[Worker, Worker]:
    """One that forgets a commit, as `markerless` is told by `orders`; and its successor, which does not."""
    forgetful = (sys.executable, "-m", "tests.integration.markerless", *orders)
    environment = {"PYTHONPATH": str(ROOT)}
    return (
        Worker(own, folder / "forgetful.log", command=forgetful, environment=environment),
        Worker(own, folder / "successor.log", command=DIGEST, environment=environment),
    )


def done(worker: Worker) -> float:
    """Events whose transaction is over for the worker too: readers see it sooner, and what it then begins to make sure
    must not be what it is told to forget.
    """
    return 1 + sum(worker.metric("intent_watermark_offset").values())


def test_a_commit_without_marks_is_taken_back_and_done_again(
    settings: MakeSettings, trusting: str, tmp_path: Path
) -> None:
    """By a worker that is asked to end just then."""
    own = alone(settings, trusting)
    order, topic = tmp_path / "forget", own.topics.events
    worker, successor = workers(own, tmp_path, str(order), str(int(signal.SIGTERM)), "0")
    try:
        worker.start()
        publish(trusting, topic, (event(f"user-{number % 5}", number, START_MS + number) for number in range(50)))
        until(lambda: done(worker) == 50, worker, "the first events are done")
        order.touch()
        publish(trusting, topic, [event("user-1", 50, START_MS + 50)])
        assert worker.await_end() != 0
        assert len(read_all(trusting, own.topics.scores)) == 50
        assert len(read_all(trusting, own.topics.scores, isolation="read_uncommitted")) == 51
        successor.start()
        assert successor.told("hanging transaction ended")
        publish(trusting, topic, (event(f"user-{number % 5}", number, START_MS + number) for number in range(51, 80)))
        until(lambda: len(read_all(trusting, own.topics.scores)) >= 80, successor, "all events are done")
        _, found = examine(own)
        assert found == Findings()
    finally:
        worker.close()
        successor.close()


BEFORE, LAST, ANOTHER = "killed before its end", "killed behind its end", "another would follow"


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("scores", BEFORE),
        ("scores", ANOTHER),
        ("dead_letters", LAST),
        ("changelog", LAST),
        ("changelog", ANOTHER),
        ("all", ANOTHER),
    ],
)
def test_no_transaction_begins_before_the_last_one_is_marked_in_every_topic(
    settings: MakeSettings, trusting: str, tmp_path: Path, name: str, when: str
) -> None:
    """What ends the next one would end what is left of it too: it would hide scores that count, or take back windows
    whose scores are out.
    """
    own = alone(settings, trusting)
    order, topics = tmp_path / "forget", own.topics
    forgotten = (
        {"changelog": [own.changelog], "all": []}[name] if name in {"changelog", "all"} else [getattr(topics, name)]
    )
    arguments = str(order), str(int(signal.SIGKILL)), "0" if when == BEFORE else "1", *forgotten
    worker, successor = workers(own, tmp_path, *arguments)
    witness, isolation = topics.scores, "read_uncommitted"
    if when == LAST:
        witness, isolation = (topics.scores if name == "changelog" else own.changelog), "read_committed"
    elif name == "dead_letters":
        witness = topics.dead_letters
    letter, *_ = bad("user-1")

    def written() -> int:
        return len(read_all(trusting, witness, isolation=isolation))

    try:
        worker.start()
        publish(trusting, topics.events, (event(f"user-{n % 5}", n, START_MS + n) for n in range(50)))
        until(lambda: done(worker) == 50, worker, "the first events are done")
        before = written()
        order.touch()
        publish(trusting, topics.events, [letter if name == "dead_letters" else event("user-1", 50, START_MS + 50)])
        if when != BEFORE:
            until(lambda: written() > before, worker, "the transaction is written")
        assert worker.process is not None
        if when == ANOTHER:
            publish(trusting, topics.events, [event("user-1", 51, START_MS + 51)])
        elif when == LAST:
            worker.process.kill()
        worker.await_end()
        successor.start()
        publish(trusting, topics.events, (event(f"user-{n % 5}", n, START_MS + n) for n in range(52, 80)))
        due = 78 + (when == ANOTHER) + (name != "dead_letters")
        until(lambda: len(read_all(trusting, topics.scores)) >= due, successor, "all events are done")
        _, found = examine(own)
        assert found == Findings()
    finally:
        worker.close()
        successor.close()
