"""What stands between the worker and the device in a test: ways to make it fail or wait, and a scorer without a device.

Knows nothing of Kafka. Imports no torch unless the real model is asked for.
"""

import asyncio
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash

from tests.chaos import changelog
from worker.scores import HORIZONS, NO_REASON, Model

Order = Literal["raise", "out_of_memory", "hold", "release"]


class OutOfMemoryError(RuntimeError):
    """Stands for torch's where there is no torch."""


class Trouble:
    """Orders from outside, met before each forward pass, on the thread that makes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Event()
        self._free.set()
        self._left = 0
        self._error: Callable[[], BaseException] = RuntimeError
        self.out_of_memory: type[BaseException] = OutOfMemoryError

    def obey(self, order: Order, times: int) -> None:
        """`times` counts the forward passes that fail."""
        with self._lock:
            if order == "hold":
                self._free.clear()
            elif order == "release":
                self._free.set()
            else:
                self._left = times
                error = self.out_of_memory if order == "out_of_memory" else RuntimeError
                self._error = lambda: error(f"ordered: {order}")

    def meet(self) -> None:
        """Waits while held, then raises what was ordered."""
        self._free.wait()
        with self._lock:
            if self._left:
                self._left -= 1
                raise self._error()


@dataclass(frozen=True)
class Scores:
    """See `worker.pipeline.EngineScores`."""

    intent: np.ndarray
    risk: np.ndarray
    risk_reasons: np.ndarray
    reason_codes: np.ndarray
    reason_weights: np.ndarray
    model: Model
    intent_percentile: np.ndarray | None = None


class DigestEngine:
    """Stands where `worker.scoring.engine.Engine` does. The first horizon's score is a hash of the window's bytes, the
    others are one of the ids of its events alone, which the oracle knows too.
    """

    model = Model("digest", "1")
    alive = True
    queued = 0

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")

    async def score(self, windows: Sequence[bytes]) -> Scores:
        """Beside the event loop, as on a device."""
        return await asyncio.get_running_loop().run_in_executor(self._device, self._score, windows)

    def close(self) -> None:
        """Let the batch under way end."""
        self._device.shutdown(wait=False)

    def _score(self, windows: Sequence[bytes]) -> Scores:
        self._trouble.meet()
        n = len(windows)
        hashes = [(_hash(window), *[_hash(_ids(window))] * (len(HORIZONS) - 1)) for window in windows]
        return Scores(
            intent=np.array(hashes),  # [n, horizons]
            risk=np.zeros(n, dtype=np.float32),
            risk_reasons=np.zeros(n, dtype=np.uint8),
            reason_codes=np.full((n, 3), NO_REASON, dtype=np.uint8),
            reason_weights=np.zeros((n, 3), dtype=np.float32),
            model=self.model,
        )


def _hash(content: bytes) -> float:
    return (xxhash.xxh3_64_intdigest(content) >> 11) / 2**53


def _ids(window: bytes) -> bytes:
    kept = changelog.window(window).kept
    return struct.pack(f">{len(kept)}Q", *(id_ for _, id_ in kept))


def trouble_the_model(trouble: Trouble) -> None:
    """Every forward pass of the real engine in this process meets the trouble first."""
    import torch

    from worker.scoring.flight import Flight

    trouble.out_of_memory = torch.OutOfMemoryError
    launch = Flight.launch

    def troubled(*args: Any) -> Any:
        trouble.meet()
        return launch(*args)

    Flight.launch = troubled  # type: ignore[method-assign, assignment]  # as only a test may
