"""Free ports on this machine's loopback address, for what is started on it: brokers, workers under test, demos."""

import socket
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


def free_port(taken: Container[int] = ()) -> int:
    """A port that nobody listens on, and that is not in `taken`. Raises `IntentError` when none is found."""
    random = SystemRandom()  # two test runs seeded alike must not meet on one port
    for _ in range(1000):
        port = random.choice(RANGE)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            if port not in taken:
                return port
    raise IntentError(f"no free port between {RANGE.start} and {RANGE.stop} on {HOST}")
