"""Whoever reaches the pages' port: the stream goes on, and who asks is answered."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import MakeSettings
from tests.integration.deployment import DIGEST, ROOT, Worker, publish, until
from tests.integration.stories import event
from tests.integration.test_worker import drained
from worker.ports import free_port

pytestmark = pytest.mark.broker

START_MS = 1_760_000_000_000
CALLERS = 400
LEFT = 150
"""Well above what is kept open, well below all."""


@pytest.fixture
def worker(settings: MakeSettings, tmp_path: Path) -> Iterator[Worker]:
    own = settings(worker={"web_port": free_port(), "instance_id": "only"})
    made = Worker(own, tmp_path / "worker.log", command=DIGEST, environment={"PYTHONPATH": str(ROOT)})
    made.start()
    yield made
    made.close()


def test_callers_who_never_finish_their_request_hold_nothing_for_long(worker: Worker) -> None:
    assert worker.process is not None
    files = psutil.Process(worker.process.pid).num_fds
    before = files()
    own = worker.settings
    with ExitStack() as open_:
        callers = [
            open_.enter_context(socket.create_connection(("127.0.0.1", own.worker.web_port))) for _ in range(CALLERS)
        ]
        for caller in callers:
            caller.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        until(lambda: files() < before + LEFT, worker, "the oldest are cut off", within_s=30)
        assert worker.get("livez") is not None
        story = (event(f"user-{number % 20}", number, START_MS + number) for number in range(200))
        total = publish(own.kafka.bootstrap_servers, own.topics.events, story)
        until(lambda: drained(worker, total), worker, "all events are done")
        newest = callers[-1]
        newest.settimeout(30)
        newest.sendall(b"x\r\n\r\n")
        assert newest.recv(100).startswith(b"HTTP/1.1 200")
    assert worker.stop() == 0


def test_callers_who_never_end_what_they_send_hold_up_no_stop(worker: Worker) -> None:
    with socket.create_connection(("127.0.0.1", worker.settings.worker.web_port)) as caller:
        caller.sendall(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert caller.recv(100).startswith(b"HTTP/1.1 ")
        assert worker.stop() == 0
    assert [line for line in worker.told() if "waited_s" in line] == []


def test_what_is_no_request_is_refused_and_leaves_no_traceback(worker: Worker) -> None:
    for said in (b"\x16\x03\x01\x00\x7a\x01\x00" + bytes(200), b"\xff\xfe\r\n\r\n", b"GET /livez HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", worker.settings.worker.web_port)) as caller:
            caller.sendall(said)
            assert caller.recv(100).startswith(b"HTTP/1.0 400")
    assert worker.stop() == 0
    assert [line for line in worker.told() if "exception" in line] == []
