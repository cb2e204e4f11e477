"""A bundle's calibrated logits, of windows as they are or with parts of the head's input put in place by hand.

The packed forward that serves computes them. Knows neither engines nor what the parts mean.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from worker.errors import IntentError
from worker.explain.parts import Doubles
from worker.scoring import tiles
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.packed import Network, pack

_WINDOWS: Final = 4096  # in a batch: some 30 MB


class Scorer:
    """Computes on `device` in float32. Blocks; not for use from several threads."""

    def __init__(self, bundle: Bundle, *, device: str = "cpu") -> None:
        self.bundle = bundle
        self._network = Network.of(
            bundle.weights,
            slopes=bundle.calibration.slopes,
            intercepts=bundle.calibration.intercepts,
            dtype=torch.float32,
            device=torch.device(device),
        )

    def logits(
        self,
        windows: Sequence[bytes],
        *,
        sums: Floats | None = None,
        contexts: np.ndarray | None = None,
    ) -> Doubles:
        """[B, HORIZONS] calibrated logits. `sums` [B, aggregates] and `contexts` [B, CONTEXT] stand in for the true.

        Raises `IntentError` where they are not numbers, as an engine of the bundle does.
        """
        calibration = self.bundle.calibration
        out = np.empty((len(windows), len(calibration.slopes)), np.float64)
        for start in range(0, len(windows), _WINDOWS):
            rows = slice(start, start + _WINDOWS)
            packed = pack(Batch.of(windows[rows]), self.bundle.vocabulary, self._network, longest_first=True)
            if sums is not None:
                packed = replace(packed, sums=sums[rows][packed.order])
            if contexts is not None:
                packed = replace(packed, contexts=contexts[rows][packed.order])
            out[start + packed.order] = tiles.logits(self._network, packed).cpu().numpy()
        if not np.isfinite(out).all():
            raise IntentError(f"model {self.bundle.name} {self.bundle.version} gives scores that are not numbers")
        return out * calibration.slopes + calibration.intercepts
