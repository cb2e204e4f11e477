"""What is looked at before a worker starts."""

import errno
import socket

import pytest

from worker import run
from worker.errors import SettingError
from worker.settings import Settings, Worker


def settings(host: str = "127.0.0.1", port: int = 0) -> Settings:
    return Settings(worker=Worker(web_host=host, web_port=port))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104
def test_a_free_port_is_left_free(host: str) -> None:
    run.check_port(settings(host))
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
    for _ in range(2):
        run.check_port(settings(host, port))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_taken_port_is_named(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingError, match=f"`worker.web_port` is {port}, which is taken on '{host}'; end who"):
            run.check_port(settings(host, port))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", ":"])
def test_a_host_that_is_not_here_is_named(host: str) -> None:
    with pytest.raises(SettingError, match=f"`worker.web_host` is '{host}', which is no address of this machine"):
        run.check_port(settings(host))


def test_a_port_that_needs_a_right_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuses)
    with pytest.raises(SettingError, match=r"`worker\.web_port` is 80, which this user may not open; choose"):
        run.check_port(settings(port=80))
