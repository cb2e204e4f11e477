"""What the engine answers: scores by row, and which model made them. Knows neither queues nor tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worker.scores import HORIZONS
from worker.scores import Model as ModelName
from worker.scoring import reasons
from worker.scoring.batch import Floats


@dataclass(frozen=True, slots=True)
class Scores:
    """Row i is window i's. All rows were made by one model."""

    intent: Floats  # [n, 3] calibrated probabilities: 30 min, 24 h, 7 d
    risk: Floats  # [n]
    risk_reasons: NDArray[np.uint8]  # [n] mask of `scores.RISK_REASONS`
    reason_codes: NDArray[np.uint8]  # [n, 3] places in `scores.REASONS`, or `scores.NO_REASON`
    reason_weights: Floats  # [n, 3] logits of the 24 h score
    model: ModelName
    intent_percentile: NDArray[np.float64] | None = None  # [n, 3] where the model has a reference to rank among

    def __len__(self) -> int:
        return len(self.risk)

    def part(self, start: int, end: int) -> "Scores":
        """The rows [start, end)."""
        rows: dict[str, Any] = {name: None if (of := getattr(self, name)) is None else of[start:end] for name in _ROWS}
        return Scores(**rows, model=self.model)

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """The rows of at least one part, in order. Raises `ValueError` for parts of different models."""
        if len(parts) == 1:
            return parts[0]
        if len({part.model for part in parts}) != 1:
            raise ValueError("scores of different models are no one answer")
        columns = {name: [getattr(part, name) for part in parts] for name in _ROWS}
        rows: dict[str, Any] = {name: None if of[0] is None else np.concatenate(of) for name, of in columns.items()}
        return cls(**rows, model=parts[0].model)

    @classmethod
    def empty(cls, model: ModelName) -> "Scores":
        """Of no windows."""
        none = np.empty(0, np.float32)
        codes, weights = np.empty((0, reasons.TOP), np.uint8), np.empty((0, reasons.TOP), np.float32)
        return cls(np.empty((0, len(HORIZONS)), np.float32), none, np.empty(0, np.uint8), codes, weights, model)


_ROWS: Final = tuple(field.name for field in fields(Scores) if field.name != "model")
