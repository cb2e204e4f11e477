"""The embedded broker's life: start, status, stop, faults, and that nothing of it outlives who started it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from worker.kafka.broker import EmbeddedBroker
from worker.kafka.node import alive

pytestmark = pytest.mark.broker

SOON_S = 60
OWNER = """
import sys
from pathlib import Path
from worker.kafka.broker import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]))
broker.launch()
print(broker.processes[1].pid, flush=True)
sys.stdin.read()
"""


def admin(servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": servers, "log_level": 0, "reconnect.backoff.max.ms": 200})


def write(servers: str, topic: str) -> None:
    """One record, acknowledged by every replica in sync."""
    outcomes: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "log_level": 0})
    producer.produce(topic, b"value", on_delivery=lambda error, _: outcomes.append(error))
    assert producer.flush(SOON_S) == 0
    assert outcomes == [None]


def create(servers: str, topic: str, *, replicas: int) -> None:
    client = admin(servers)  # held until the answer is there
    client.create_topics([NewTopic(topic, 1, replicas, config={"compression.type": "lz4"})])[topic].result(SOON_S)


def intent(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", "broker", *arguments, "--folder", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def ended_with_the_test() -> Iterator[list[psutil.Process]]:
    """Processes that must not outlive the test, whatever it finds."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        if alive(process):
            process.kill()


def test_a_node_killed_paused_and_restarted_keeps_its_address_and_data(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    # From a thread that ends: the node must depend on the process, not on the thread that happened to start it.
    starter = threading.Thread(target=broker.start)
    starter.start()
    starter.join()
    try:
        servers = broker.bootstrap_servers
        create(servers, "kept", replicas=1)
        write(servers, "kept")

        broker.kill(1)
        assert not alive(broker.processes[1])
        assert list(tmp_path.glob("liblz4*"))  # what Java unpacked goes with the folder
        broker.restart(1)
        assert broker.bootstrap_servers == servers
        assert "kept" in admin(servers).list_topics(timeout=SOON_S).topics

        broker.pause(1)
        with pytest.raises(KafkaException):
            admin(servers).list_topics(timeout=0.5)
        broker.resume(1)
        assert "kept" in admin(servers).list_topics(timeout=SOON_S).topics
    finally:
        processes = list(broker.processes.values())
        broker.stop()
        broker.stop()  # idempotent
    assert not any(map(alive, processes))
    assert "shut down completely" in (tmp_path / "broker-1.log").read_text().splitlines()[-1]


@pytest.mark.slow
def test_three_nodes_acknowledge_with_one_of_them_gone(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, nodes=3) as broker:
        create(broker.bootstrap_servers, "replicated", replicas=3)
        write(broker.bootstrap_servers, "replicated")
        broker.kill(3)
        write(broker.bootstrap_servers, "replicated")
        processes = list(broker.processes.values())
        broker.stop(timeout_s=1)  # shorter than they take: what does not end in time is ended
    assert not any(map(alive, processes))


def test_no_broker_outlives_an_owner_that_was_killed(tmp_path: Path, ended_with_the_test: list[psutil.Process]) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        node = psutil.Process(int(owner.stdout.readline()))
        ended_with_the_test.append(node)
        _await(lambda: node.name() == "java")
        node.suspend()  # not even one that cannot hear
        owner.kill()
    node.wait(SOON_S)


def test_a_background_broker_from_start_to_stop(tmp_path: Path, ended_with_the_test: list[psutil.Process]) -> None:
    assert intent("status", folder=tmp_path).returncode == 3

    started = intent("start", "--port", "0", folder=tmp_path)
    assert started.returncode == 0, started.stderr
    status = json.loads(intent("status", "--json", folder=tmp_path).stdout)
    (node,) = status["nodes"]
    process = psutil.Process(node["pid"])
    ended_with_the_test.append(process)
    assert status["running"]
    assert status["bootstrap_servers"] in started.stdout
    assert Path(node["log"]).is_file()
    assert len(admin(status["bootstrap_servers"]).list_topics(timeout=SOON_S).brokers) == 1

    assert "as before" in intent("start", folder=tmp_path).stdout
    more = intent("start", "--nodes", "3", folder=tmp_path)
    assert (more.returncode, "`intent broker stop` first" in more.stderr) == (1, True)

    assert intent("stop", folder=tmp_path).stdout == "stopped 1 node\n"
    assert not alive(process)  # whoever inherited it may not have noticed yet
    assert intent("stop", folder=tmp_path).returncode == 0
    assert intent("status", folder=tmp_path).returncode == 3


def test_of_two_starts_at_once_one_starts_it(tmp_path: Path) -> None:
    try:
        with ThreadPoolExecutor(2) as threads:
            starts = list(threads.map(lambda _: intent("start", "--port", "0", folder=tmp_path), range(2)))
        assert [start.returncode for start in starts] == [0, 0], starts
        assert sorted("as before" in start.stdout for start in starts) == [False, True]
    finally:
        stopped = intent("stop", folder=tmp_path).stdout
    assert stopped == "stopped 1 node\n"
    assert intent("status", folder=tmp_path).returncode == 3


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_nothing_is_left_of_a_start_that_was_interrupted(
    how: signal.Signals, tmp_path: Path, ended_with_the_test: list[psutil.Process]
) -> None:
    command = [sys.executable, "-m", "worker", "broker", "start", "--port", "0", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as start:
        state = tmp_path / "state.json"
        _await(state.exists)
        (pid,) = [node["pid"] for node in json.loads(state.read_text())["nodes"]]
        node = psutil.Process(pid)
        ended_with_the_test.append(node)
        node.suspend()  # it never answers: the start cannot be over before it is interrupted
        start.send_signal(how)
        assert start.wait(SOON_S) != 0
    node.wait(SOON_S)
    assert json.loads(intent("status", "--json", folder=tmp_path).stdout)["nodes"] == []


def _await(holds: Callable[[], bool]) -> None:
    """Blocks until it holds; the test's time limit bounds that."""
    while not holds():
        os.sched_yield()
