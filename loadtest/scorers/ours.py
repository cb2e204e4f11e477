"""The worker's own: its forward alone, from encoded windows, and its engine from a window's bytes to a whole score."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loadtest.scorers.work import Columns
from worker.scoring import forward
from worker.scoring.batch import Floats, Ints
from worker.scoring.bundle import Bundle
from worker.scoring.engine import Engine

_MOST_WINDOWS = 1024


class Grouped:
    """The forward of today: groups of like length, padded to their longest."""

    def __init__(self, bundle: Bundle, *, device: torch.device) -> None:
        self._vocabulary = bundle.vocabulary
        self._model = bundle.model.to(device)
        self._device = device

    def arrange(self, windows: Sequence[bytes]) -> list[tuple[Ints, list[Tensor]]]:
        """The host's part: each group's places, and its tensors on the device."""
        columns = Columns.of(windows, self._vocabulary)
        return [
            (chosen, [torch.from_numpy(array).to(self._device) for array in columns.padded(chosen)])
            for chosen in forward.groups(columns.batch.lengths, max_windows=_MOST_WINDOWS)
        ]

    def forward(self, arranged: list[tuple[Ints, list[Tensor]]]) -> Floats:
        """The device's part, waited for: [n, HORIZONS] logits."""
        out = np.empty((sum(len(chosen) for chosen, _ in arranged), 3), np.float32)
        with torch.inference_mode():
            parts = [(chosen, self._model(*inputs)) for chosen, inputs in arranged]
            for chosen, part in parts:
                out[chosen] = part.float().cpu().numpy()
        return out


class Whole:
    """`Engine.score_now`: decoding, encoding, the forward, risk and reasons, handed over between threads."""

    def __init__(self, bundle: Bundle, *, device: str, threads: int) -> None:
        self._engine = Engine(bundle, device=device, threads=threads)

    def arrange(self, windows: Sequence[bytes]) -> Sequence[bytes]:
        """Nothing: all is part of the measurement."""
        return windows

    def forward(self, arranged: Sequence[bytes]) -> Floats:
        """[n, HORIZONS] calibrated probabilities."""
        return self._engine.score_now(arranged).intent
