"""When to freeze the next batch: as late as its preparation allows, so that the device does not wait for it.

While one batch is on the device, the next may be taken at any moment before it ends; each window that arrives meanwhile
need not wait for a third. There is no timer in it: the moment is the end that is expected of the batch under way, less
what a preparation takes. The clock is passed in; knows no device and no queue.
"""

from collections.abc import Callable
from typing import Final

_SMOOTHING: Final = 8


class Pace:
    """Seconds a token on the host and on the device, smoothed."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._host_s = 0.0
        self._device_s = 0.0
        self._free_s = 0.0
        """When the device ends what it was given, as far as is known."""

    def spare_s(self, tokens: int) -> float:
        """How long the next batch of about so many tokens need not be taken."""
        return max(0.0, self._free_s - self._host_s * tokens - self._now_s())

    def begun(self, began_s: float, tokens: int) -> None:
        """A batch whose preparation began then is on the device, or behind the one that is."""
        now_s = self._now_s()
        self._host_s += ((now_s - began_s) / tokens - self._host_s) / _SMOOTHING
        self._free_s = max(now_s, self._free_s) + self._device_s * tokens

    def finished(self, since_s: float, tokens: int) -> None:
        """A batch that had the device for itself since then is done."""
        self._device_s += ((self._now_s() - since_s) / tokens - self._device_s) / _SMOOTHING
