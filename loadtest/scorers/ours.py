"""The worker's own: its forward alone, from packed windows, and its engine from a window's bytes to a whole score."""

import threading
from collections.abc import Sequence

import torch

from loadtest.scorers.task import Task
from worker.scoring import tiles
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.device import Device
from worker.scoring.engine import Engine
from worker.scoring.graphs import SLOTS, Graphs
from worker.scoring.packed import Network, Packed, pack

_MOST_TOKENS = 16_384  # of the engine's batches
_GRAPH_TOKENS = 32_768  # 512 windows of 64: larger than a batch of the engine


class Forward:
    """The packed forward: tiles on a CPU; captured graphs in half precision on CUDA, two at once as in the engine."""

    def __init__(self, bundle: Bundle, task: Task, *, dtype: torch.dtype) -> None:
        calibration = bundle.calibration
        self._vocabulary = bundle.vocabulary
        self._network = Network.of(
            bundle.weights,
            slopes=calibration.slopes,
            intercepts=calibration.intercepts,
            dtype=dtype,
            device=torch.device(task.device),
        )
        self._graphs: Graphs | None = None
        if task.device == "cuda" and dtype != torch.float32:
            self._graphs = Graphs(bundle, self._network, max_tokens=_GRAPH_TOKENS, fixed=False)
            for _ in self._graphs.capture():
                pass
        self.callers = SLOTS if self._graphs else 1
        self._launching = threading.Lock()

    def arrange(self, windows: Sequence[bytes]) -> Packed:
        """The host's part."""
        return pack(Batch.of(windows), self._vocabulary, self._network, longest_first=self._graphs is None)

    def forward(self, arranged: Packed) -> Floats:
        """The device's part, waited for: [n, HORIZONS] probabilities."""
        if self._graphs is None:
            return tiles.probabilities(self._network, arranged)
        with self._launching:
            ticket = self._graphs._launch(arranged)  # noqa: SLF001 - without packing, which `begin` does
        return ticket.collect()


class Whole:
    """`Engine.score_now`: decoding, encoding, the forward, risk and reasons, handed over between threads.

    `fixed`: deterministic, `model.deterministic` of a worker. Where the engine has two batches under way, two more are
    asked for beside them, so that one waits whenever one is done.
    """

    def __init__(self, bundle: Bundle, task: Task, *, dtype: torch.dtype, fixed: bool = False) -> None:
        device = Device.named(task.device, str(dtype).removeprefix("torch."), deterministic=fixed)
        self._engine = Engine(lambda: bundle, device=device, max_batch_tokens=_MOST_TOKENS, threads=task.threads)
        self.callers = 1 if device.in_flight == 1 else 2 * device.in_flight

    def arrange(self, windows: Sequence[bytes]) -> Sequence[bytes]:
        """Nothing: all is part of the measurement."""
        return windows

    def forward(self, arranged: Sequence[bytes]) -> Floats:
        """[n, HORIZONS] probabilities."""
        return self._engine.score_now(arranged).intent
