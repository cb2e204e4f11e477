"""A free port stays its seeker's: no other gets it before its server opens it, nor between two lives of that server."""

import socket
import subprocess
import sys

import pytest

from worker import ports
from worker.errors import IntentError

_SEEK = "import socket, sys; socket.socket().bind(('127.0.0.1', int(sys.argv[1])))"


def listener(port: int) -> socket.socket:
    """As Kafka and aiohttp open one."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((ports.HOST, port))
    server.listen()
    return server


def sought_elsewhere(port: int) -> bool:
    """Whether another process may bind it."""
    command = [sys.executable, "-ISc", _SEEK, str(port)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let nobody listen on a port that is held")
def test_nobody_else_gets_a_port_and_its_server_may_come_and_go() -> None:
    port = ports.free_port()
    assert not sought_elsewhere(port)
    for _life in range(2):
        with listener(port), socket.create_connection((ports.HOST, port)):
            assert not sought_elsewhere(port)
        assert not sought_elsewhere(port)


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "RANGE", range(19_500, 19_503))  # where other tests seek none
    with listener(19_501):
        assert ports.free_port(taken={19_500}) == 19_502
        assert ports.free_port() == 19_500
        with pytest.raises(IntentError, match=r"no free port between 19500 and 19503 on 127\.0\.0\.1"):
            ports.free_port()
