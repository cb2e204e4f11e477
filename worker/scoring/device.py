"""Where models compute: what a device and a type are called, how a model is made ready, what its errors mean.

Knows neither queues nor callers. Every method but `named` is called on the one thread that owns the device.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import structlog
import torch

from worker.errors import SettingError
from worker.scoring import faults, graphs, tiles
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.packed import Network, pack

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}

HALF_FROM: Final = (8, 0)
"""Compute capability of the first devices (Ampere) that bfloat16 and torch's attention over packed windows need."""

log = structlog.get_logger(__name__)


class Pending(Protocol):
    """A batch that was begun."""

    def done(self) -> bool:
        """Whether the device has ended it. Does not wait."""

    def wait(self) -> Floats:
        """[B, HORIZONS] probabilities, once the device has ended it. Called once."""


class Runner(Protocol):
    """A model that is ready."""

    @property
    def bundle(self) -> Bundle:
        """The model with all that belongs to it."""

    def begin(self, batch: Batch) -> Pending:
        """Starts a batch's forward pass. May finish it before it returns."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device, and how to compute on it.

    How far a score depends on the batch it was in (`tests/unit/scoring/test_tiles.py`, `test_graphs.py`): not at all
    when `deterministic`; else by rounding, at most `forward.TOLERANCE` in float32. In bfloat16 a score lies within 0.01
    of float32's.
    """

    place: torch.device
    dtype: torch.dtype = torch.float32
    deterministic: bool = False
    in_flight: int = 1
    """Batches that may be under way at once: two where a model's `begin` does not wait for its end."""

    @classmethod
    def named(cls, name: str, dtype: str = "auto", *, deterministic: bool = False) -> "Device":
        """`auto` (CUDA where there is one), `cpu` or `cuda`; `auto`, `float32` or `bfloat16`.

        `auto` is bfloat16 on CUDA from Ampere on, else float32.

        float32 is the CPU's default although bfloat16 is faster where the CPU has it: a score is then the same to five
        digits whatever the batch and the machine. Raises `SettingError` for what is not there.
        """
        if name not in {"auto", "cpu", "cuda"}:
            raise SettingError(f"the setting `model.device` is {name!r}; accepted are 'auto', 'cpu' and 'cuda'")
        if name == "cuda" and not torch.cuda.is_available():
            raise SettingError(
                "the setting `model.device` is 'cuda', but torch finds no CUDA device; use 'auto' or 'cpu'"
            )
        if dtype != "auto" and dtype not in DTYPES:
            raise SettingError(f"the setting `model.dtype` is {dtype!r}; accepted are 'auto' and {sorted(DTYPES)}")
        cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
        half = cuda and torch.cuda.get_device_capability() >= HALF_FROM
        if cuda and not half and dtype == "bfloat16":
            raise SettingError(
                "the setting `model.dtype` is 'bfloat16', but this CUDA device is older than compute capability "
                f"{HALF_FROM[0]}.{HALF_FROM[1]}; use 'auto' or 'float32'"
            )
        chosen = DTYPES.get(dtype, torch.bfloat16 if half else torch.float32)
        graphed = cuda and chosen != torch.float32
        return cls(torch.device("cuda" if cuda else "cpu"), chosen, deterministic, in_flight=2 if graphed else 1)

    def exhausted(self, error: BaseException) -> bool:
        """Whether there was too little memory: a smaller batch may do."""
        return faults.exhausted(error)

    def lost(self, error: BaseException) -> bool:
        """Whether nothing will compute on it any more."""
        return faults.lost(error, self.place)

    def prepare(self, bundle: Bundle, warm_up: Sequence[bytes], *, max_tokens: int) -> Generator[None, None, Runner]:
        """Makes a model ready beside those that are, in steps between which others may compute.

        Raises `SettingError` for one whose scores of the `warm_up` windows are not numbers.
        """
        began = time.perf_counter()
        network = Network.of(
            bundle.weights,
            slopes=bundle.calibration.slopes,
            intercepts=bundle.calibration.intercepts,
            dtype=self.dtype,
            device=self.place,
        )
        yield
        runner: Runner
        if self.place.type == "cuda" and self.dtype != torch.float32:
            runner = yield from graphs.prepare(bundle, network, max_tokens=max_tokens, fixed=self.deterministic)
        else:
            runner = Tiled(bundle, network, self.deterministic)
        for count in _warm_up_counts(self, network):
            batch = Batch.of([*warm_up, *[warm_up[0]] * count])
            if not np.isfinite(runner.begin(batch).wait()).all():
                raise SettingError(f"model {bundle.name} {bundle.version} gives scores that are not numbers")
            yield
        log.debug("model is ready", name=bundle.name, seconds=round(time.perf_counter() - began, 3))
        return runner


@dataclass(frozen=True, slots=True)
class Tiled:
    """A model that runs in tiles, on the calling thread."""

    bundle: Bundle
    network: Network
    fixed: bool

    def begin(self, batch: Batch) -> Pending:
        """All of it, at once."""
        packed = pack(batch, self.bundle.vocabulary, self.network, longest_first=True)
        return _Found(tiles.probabilities(self.network, packed, fixed=self.fixed))


@dataclass(frozen=True, slots=True)
class _Found:
    """A batch that nobody need wait for."""

    probabilities: Floats

    def done(self) -> bool:
        return True

    def wait(self) -> Floats:
        return self.probabilities


def _warm_up_counts(device: Device, network: Network) -> range:
    """How many short windows to try beside the others: in bfloat16 on the CPU, one for each shape that tiles have."""
    if device.place.type == "cpu" and network.dtype == torch.bfloat16 and not device.deterministic:
        return range(0, tiles.TILE // 2, tiles.STEP // 2)
    return range(1)
