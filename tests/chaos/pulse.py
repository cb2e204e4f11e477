"""When all was well: looked at throughout an episode, so that what a fault leaves behind ends when the system says so.

A fixed time would be a guess about the machine: on a busy one, groups and transactions take many times as long to heal.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

_BEAT_S: Final = 0.25


class Pulse:
    """Looks on a thread of its own until `close`."""

    def __init__(self, well: Callable[[], bool]) -> None:
        self.beats: list[float] = []
        """The moments at which all was well, monotonic seconds."""
        self._well = well
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pulse", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_BEAT_S):
            began_s = time.monotonic()
            if self._well():
                self.beats.append(began_s)

    def close(self) -> None:
        """No look afterwards. Idempotent."""
        self._ended.set()
        self._thread.join()


def well_again(beats: Sequence[float], after_s: float) -> float:
    """The first beat after that moment; infinite when none came."""
    return next((beat for beat in beats if beat >= after_s), float("inf"))
