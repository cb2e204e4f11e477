"""When to freeze the next batch: as late as its preparation allows, so that the device does not wait for it.

While one batch is on the device, the next may be taken at any moment before it ends; each window that arrives meanwhile
need not wait for a third. There is no timer in it: the moment is the end that is expected of the batch under way, less
what a preparation takes. What was never seen is not expected to take any time, and the next batch is taken at once. The
clock is passed in; knows no device and no queue.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

_SMOOTHING: Final = 8


class Pace:
    """Seconds of a batch on the host and on the device, smoothed, for each power of two of tokens by itself.

    A captured graph costs by its size, not by what is in it, and a few tokens nearly as much as many: what small
    batches take says nothing of large ones.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._host_s: dict[int, float] = {}
        self._device_s: dict[int, float] = {}
        self._under_way: deque[int] = deque()
        self._free_s = 0.0
        """When the device ends what it was given, as far as is known."""

    def spare_s(self, tokens: int) -> float:
        """How long the next batch of about so many tokens need not be taken."""
        preparing_s = self._host_s.get(_size(tokens))
        return 0.0 if preparing_s is None else max(0.0, self._free_s - preparing_s - self._now_s())

    def begun(self, began_s: float, tokens: int) -> None:
        """A batch whose preparation began then is on the device, or behind the one that is."""
        now_s = self._now_s()
        _learn(self._host_s, tokens, now_s - began_s)
        self._under_way.append(tokens)
        self._free_s = max(now_s, self._free_s) + self._device_s.get(_size(tokens), 0.0)

    def ended(self, since_s: float, at_s: float | None) -> None:
        """The oldest batch is done: at `at_s`, with the device for itself since then; `None`: nobody saw when."""
        tokens = self._under_way.popleft()
        if at_s is not None:
            _learn(self._device_s, tokens, at_s - since_s)
        rest_s = sum(self._device_s.get(_size(behind), 0.0) for behind in self._under_way)
        self._free_s = (self._now_s() if at_s is None else at_s) + rest_s


def _size(tokens: int) -> int:
    return tokens.bit_length()


def _learn(seconds: dict[int, float], tokens: int, taken_s: float) -> None:
    before_s = seconds.setdefault(_size(tokens), taken_s)
    seconds[_size(tokens)] = before_s + (taken_s - before_s) / _SMOOTHING
