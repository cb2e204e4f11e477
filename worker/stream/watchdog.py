"""Ends the process when something does not happen in time. Knows only names and deadlines.

A thread of its own, since what it watches may block the event loop. Crash-only: what is not committed is aborted by the
next owner of the partition, so the safe answer to any doubt is to stop at once and non-zero.
"""

import os
import threading
import time
from typing import Final, NoReturn

import structlog

from worker.errors import Fatal

EXIT_FATAL: Final = 1
_POLL_S: Final = 0.2
_LAST_WORDS_S: Final = 2.0
"""Whoever reads the log may have stopped, and holds up each thread that writes to it then."""

_ENDS: Final = threading.RLock()
"""Whoever has it ends the process; it is never given back. A signal may find its own thread at that already."""

log = structlog.get_logger(__name__)


def end_process(why: str, error: BaseException | None = None) -> NoReturn:
    """Log and exit non-zero at once, without a commit and without clean-up. Callable from any thread.

    Where an error is `Fatal` and has no cause, its sentence says all there is to say: no traceback then. Likewise where
    one is at the bottom of an error that somebody else has made of it, as aiokafka does of what its assignor says.
    """
    bottom = error
    while bottom is not None and bottom.__cause__ is not None:
        bottom = bottom.__cause__
    said = isinstance(bottom, Fatal)
    shown = str(bottom) if said else repr(error) if error else None
    told = {"why": why, "error": shown, "exc_info": None if said else error}
    teller = threading.Thread(target=log.critical, args=("fatal",), kwargs=told, name="last words", daemon=True)
    try:
        teller.start()
        teller.join(_LAST_WORDS_S)
    finally:
        exit_now(EXIT_FATAL)


def exit_now(code: int) -> NoReturn:
    """Exit at once, without the interpreter's own end: it waits for the threads of librdkafka, torch and RocksDB, and
    what watches it is among the first that end. Of several threads the first one does it: what hooks the exit, as
    coverage does to save what it measured, is not made for two of them at once, and crashed.
    """
    _ENDS.acquire()
    os._exit(code)


class Watchdog:
    """Named deadlines. `arm` sets or moves one, `disarm` lifts it; one that passes ends the process."""

    def __init__(self) -> None:
        self._deadlines: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def arm(self, name: str, within_s: float) -> None:
        """`name` (what is waited for) must be armed again or disarmed within `within_s`."""
        with self._lock:
            self._deadlines[name] = (time.monotonic() + within_s, within_s)

    def disarm(self, name: str) -> None:
        """It happened. Idempotent."""
        with self._lock:
            self._deadlines.pop(name, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_POLL_S)
            now = time.monotonic()
            with self._lock:
                missed = [(name, within_s) for name, (at, within_s) in self._deadlines.items() if now > at]
            for name, within_s in missed:
                end_process(f"{name}: not within {within_s:g} s")
