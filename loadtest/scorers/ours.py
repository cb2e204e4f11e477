"""The worker's own: its forward alone, from packed windows, and its engine from a window's bytes to a whole score."""

from collections.abc import Sequence

import torch

from loadtest.scorers.task import Task
from worker.scoring import tiles
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.device import Device
from worker.scoring.engine import Engine
from worker.scoring.graphs import Graphs
from worker.scoring.packed import Network, Packed, pack

_MOST_TOKENS = 16_384  # of the engine's batches
_GRAPH_TOKENS = 32_768  # 512 windows of 64: larger than a batch of the engine


class Forward:
    """The packed forward, a batch at a time: tiles on a CPU, captured graphs in half precision on CUDA."""

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

    def arrange(self, windows: Sequence[bytes]) -> Packed:
        """The host's part."""
        return pack(Batch.of(windows), self._vocabulary, self._network, longest_first=self._graphs is None)

    def forward(self, arranged: Packed) -> Floats:
        """The device's part, waited for: [n, HORIZONS] probabilities."""
        if self._graphs is None:
            return tiles.probabilities(self._network, arranged)
        return self._graphs._launch(arranged).collect()  # noqa: SLF001 - without packing, which `begin` does


class Whole:
    """`Engine.score_now`: decoding, encoding, the forward, risk and reasons, handed over between threads.

    `fixed`: deterministic, `model.deterministic` of a worker.
    """

    def __init__(self, bundle: Bundle, task: Task, *, dtype: torch.dtype, fixed: bool = False) -> None:
        device = Device.named(task.device, str(dtype).removeprefix("torch."), deterministic=fixed)
        self._engine = Engine(lambda: bundle, device=device, max_batch_tokens=_MOST_TOKENS, threads=task.threads)

    def arrange(self, windows: Sequence[bytes]) -> Sequence[bytes]:
        """Nothing: all is part of the measurement."""
        return windows

    def forward(self, arranged: Sequence[bytes]) -> Floats:
        """[n, HORIZONS] probabilities."""
        return self._engine.score_now(arranged).intent
