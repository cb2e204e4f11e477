"""From a network's logits to probabilities. Knows arrays only; how it is fitted is training's business."""

from dataclasses import dataclass

import numpy as np

from worker.scoring.batch import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Platt's: probability = sigmoid(slope * logit + intercept), a horizon each. The slope is positive."""

    slopes: Floats
    intercepts: Floats

    def probabilities(self, logits: Floats) -> Floats:
        """[n, horizons] logits -> probabilities. A longer horizon is never less likely than a shorter one."""
        scaled = logits.astype(np.float64) * self.slopes + self.intercepts
        each = 1.0 / (1.0 + np.exp(-np.clip(scaled, -30.0, 30.0)))
        return np.maximum.accumulate(each, axis=1).astype(np.float32)
