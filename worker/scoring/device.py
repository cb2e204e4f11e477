"""Where models compute: what a device is called, how a model is made ready on it, and how a batch goes through.

Knows neither queues nor callers. Every method is called on the one thread that owns the device.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from worker.errors import IntentError, SettingError
from worker.scoring import forward
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle

Finish = Callable[[], Floats]
"""Waits for the device; [B, HORIZONS] probabilities."""


class Runner(Protocol):
    """A model that is ready."""

    @property
    def bundle(self) -> Bundle:
        """The model with all that belongs to it."""

    def begin(self, batch: Batch) -> Finish:
        """Starts a batch's forward pass; what to call for its scores. May finish it before it returns."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device."""

    place: torch.device
    in_flight: int = 1
    """Batches that may be under way at once. On the CPU one thread is host and device alike."""

    @classmethod
    def named(cls, name: str) -> "Device":
        """`auto` (CUDA where there is one), `cpu` or `cuda`. Raises `SettingError` for one that is not there."""
        if name == "auto":
            return cls(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if name == "cuda" and not torch.cuda.is_available():
            raise SettingError(
                "the setting `model.device` is 'cuda', but torch finds no CUDA device; use 'auto' or 'cpu'"
            )
        if name not in {"cpu", "cuda"}:
            raise SettingError(f"the setting `model.device` is {name!r}; accepted are 'auto', 'cpu' and 'cuda'")
        return cls(torch.device(name))

    def exhausted(self, error: BaseException) -> bool:
        """Whether there was too little memory: a smaller batch may do."""
        return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)

    def lost(self, error: BaseException) -> bool:
        """Whether nothing will compute on it any more: CUDA's errors stay, for the whole process."""
        if isinstance(error, torch.OutOfMemoryError):
            return False
        return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)

    def prepare(self, bundle: Bundle, warm_up: Sequence[bytes]) -> Generator[None, None, Runner]:
        """Makes a model ready beside those that are, in steps between which others may compute."""
        bundle.model.eval().to(self.place)
        yield
        runner = _Eager(bundle, self.place)
        if not np.isfinite(runner.begin(Batch.of(warm_up))()).all():
            raise IntentError(f"model {bundle.name} {bundle.version} gives scores that are not numbers")
        return runner


@dataclass(frozen=True, slots=True)
class _Eager:
    bundle: Bundle
    place: torch.device

    def begin(self, batch: Batch) -> Finish:
        logits = forward.logits(
            self.bundle.model, self.bundle.vocabulary, batch, device=self.place, max_windows=len(batch)
        )
        if not np.isfinite(logits).all():
            raise IntentError(f"model {self.bundle.name} {self.bundle.version} gave scores that are not numbers")
        return lambda: self.bundle.calibration.probabilities(logits)
