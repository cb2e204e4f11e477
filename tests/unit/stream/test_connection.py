"""How a connection to a broker ends."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest
import trustme
import uvloop
from aiokafka.conn import AIOKafkaConnection

from worker.stream import consumer


class Busy(NamedTuple):
    """A broker that shakes hands and reads nothing more, as while it has a request of the connection in hand."""

    port: int
    trust: ssl.SSLContext
    over: threading.Event
    """Set: it hangs up."""


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    async def ask_nothing(_: AIOKafkaConnection) -> None:
        pass

    monkeypatch.setattr(AIOKafkaConnection, "_do_version_lookup", ask_nothing)
    authority, over = trustme.CA(), threading.Event()
    ours, theirs = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(ours)
    authority.issue_cert("localhost").configure_cert(theirs)
    with socket.create_server(("localhost", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as plain, theirs.wrap_socket(plain, server_side=True):
                over.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Busy(listener.getsockname()[1], ours, over)
        over.set()
        thread.join(10)


def closes(busy: Busy, *, within_s: float) -> bool:
    """Whether a connection to it is closed so soon; it is in the end, when the broker hangs up."""

    async def connect_and_close() -> bool:
        connection = AIOKafkaConnection("localhost", busy.port, security_protocol="SSL", ssl_context=busy.trust)
        await connection.connect()
        closing = asyncio.ensure_future(connection.close())
        done, _ = await asyncio.wait([closing], timeout=within_s)
        busy.over.set()
        await closing
        return bool(done)

    return uvloop.run(connect_and_close())


def test_over_tls_nobody_waits_for_the_farewell_of_a_broker_that_does_not_read(busy: Busy) -> None:
    assert closes(busy, within_s=5)


def test_left_to_itself_it_would_wait(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a new version of aiokafka or uvloop no longer does: the replacement can go then."""
    monkeypatch.setattr(AIOKafkaConnection, "close", consumer._close_when_answered)
    assert not closes(busy, within_s=1)
