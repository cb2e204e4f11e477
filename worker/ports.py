"""Free ports on this machine's loopback address, for what is started on it: brokers, workers under test, demos."""

import socket
import sys
from collections.abc import Container
from contextlib import suppress
from random import SystemRandom
from typing import Final

from worker.errors import IntentError

HOST: Final = "127.0.0.1"
RANGE: Final = range(20_000, 32_000)
"""Below the range from which the kernel takes outgoing ports: there, a client that keeps reconnecting to a killed
server can be given that very port, connect to itself, and keep the server from coming back.
"""

_given: set[int] = set()
"""The ports that this process gave. On Linux they stay bound as long as it lives: between its choice and its server and
between two lives of a server, a port would otherwise go to whoever seeks one then. A server that sets SO_REUSEADDR, as
all of ours do, may listen on a port that is bound and not listened on by a socket that sets it too; one that does not
set it may not bind it (socket(7)). Other systems refuse such a server, so there they are closed.
"""


def free_port(taken: Container[int] = ()) -> int:
    """A port that nobody has, that this process has not given yet, and that is not in `taken`.

    On Linux nobody else is given it while this process lives. Raises `IntentError` when none is found.
    """
    random = SystemRandom()  # two test runs seeded alike must not meet on one port
    for _ in range(1000):
        port = random.choice(RANGE)
        if port in taken or port in _given:
            continue
        with socket.socket() as holder, suppress(OSError):
            holder.bind((HOST, port))
            _given.add(port)
            if sys.platform == "linux":
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.detach()  # it is not closed
            return port
    raise IntentError(f"no free port between {RANGE.start} and {RANGE.stop} on {HOST}")
