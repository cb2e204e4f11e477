"""A stage of training, step by step: steps, averages, evaluations, the best checkpoint, early stopping, resuming.

What a step draws at random follows from the seed, the stage and the step alone (`randomness`). So a stage that is taken
up at a checkpoint ends where it would have ended without the interruption: to the bit on one thread. Knows no data and
no losses: pretraining, fine-tuning and whatever else has parameters and gradients run through here.
"""

import copy
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from worker.training.checkpoints import Checkpoints
from worker.training.optimiser import Optimiser

Places = NDArray[np.int64]

Check = Callable[[Any], dict[str, float]]
"""Measures a network; the result's `score` is to be large."""

History = list[dict[str, float]]
"""Of a stage: `windows`, `loss` (but at its beginning), and what the check found, an entry an evaluation."""

_AVERAGED_FROM = 10  # steps; before, the average would hold on to how the weights began


def best(history: History) -> dict[str, float]:
    """The entry whose network is kept: of equals the first, and never a later one whose score is no number."""
    return max(history, key=lambda entry: entry["score"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is to be done; windows a step, evaluations in all, how many without a gain end it."""

    name: str
    steps: int
    batch_windows: int
    seed: int
    evaluations: int = 10
    patience: int = 10
    average: float = 0.0
    """Decay of an exponential moving average of the weights, which then is what is measured and kept; 0: none."""
    stop: int | None = None
    """Ends after so many steps, with the schedule of all; a refit ends where the chosen run was best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a stage of a run is, after each step; `validation` after an evaluation."""

    stage: str
    windows: int
    of_windows: int
    loss: float
    seconds: float
    validation: dict[str, float] | None = None


def randomness(seed: int, stage: str, step: int) -> np.random.Generator:
    """A generator that is a function of these three; torch's own is seeded likewise."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(stage.encode()), step])
    torch.manual_seed(int(sequence.generate_state(1)[0]))
    return np.random.default_rng(sequence)


def run(
    network: nn.Module,
    gradients: Callable[[int, np.random.Generator], float],
    optimiser: Optimiser,
    stage: Stage,
    *,
    report: Callable[[Progress], None],
    check: Check | None = None,
    keep: Checkpoints | None = None,
) -> History:
    """Trains the network in place, to its best checkpoint by `check`; without one, to the last step.

    `gradients(step, randomness)` adds one batch's to the parameters, steps counting from 1, and returns its mean loss.
    With `keep`, a stage that was interrupted goes on at its last checkpoint, and one that had ended is not run again.
    """
    started = time.monotonic()
    state = _State(network, optimiser, stage, check)
    every = max(1, stage.steps // stage.evaluations)
    last = min(stage.steps, stage.stop or stage.steps)
    if keep is not None and (kept := keep.load(stage.name)) is not None:
        state.restore(kept)
    elif check is not None:
        state.measure(check)  # what it begins with may stay the best
    for step in range(state.step + 1, last + 1):
        if state.ended:
            break
        network.train()
        loss = gradients(step, randomness(stage.seed, stage.name, step))
        optimiser.step()
        state.took()
        found = None
        if step % every == 0 or step == last:
            if check is not None:
                found = state.measure(check, loss=loss)
            if keep is not None:
                keep.save(stage.name, state.dump())
        report(
            Progress(
                stage=stage.name,
                windows=step * stage.batch_windows,
                of_windows=stage.steps * stage.batch_windows,
                loss=loss,
                seconds=time.monotonic() - started,
                validation=found,
            )
        )
    state.finish()
    return state.history


class _State:
    """All that the rest of a stage depends on."""

    def __init__(self, network: nn.Module, optimiser: Optimiser, stage: Stage, check: Check | None) -> None:
        self.network, self.optimiser, self.stage = network, optimiser, stage
        self.step = 0
        self.history: History = []
        self.since_best = 0
        self.best = copy.deepcopy(network.state_dict()) if check is not None else None
        self.average: AveragedModel | None = None
        if stage.average:
            averaged = get_ema_multi_avg_fn(stage.average)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self.average = AveragedModel(network, multi_avg_fn=averaged)

    @property
    def ended(self) -> bool:
        """Whether patience is used up."""
        return self.since_best >= self.stage.patience

    def took(self) -> None:
        """A step."""
        self.step += 1
        if self.average is not None and self.step >= min(_AVERAGED_FROM, self.stage.steps):
            self.average.update_parameters(self.network)

    def measure(self, check: Check, **beside: float) -> dict[str, float]:
        """What the check finds, kept if it is the best so far."""
        found = check(self._served())
        if not self.history or found["score"] > best(self.history)["score"]:
            self.best, self.since_best = copy.deepcopy(self._served().state_dict()), 0
        else:
            self.since_best += 1
        self.history.append({"windows": self.step * self.stage.batch_windows, **beside, **found})
        return found

    def finish(self) -> None:
        """Leaves the network as it is to be used."""
        self.network.load_state_dict(self.best if self.best is not None else self._served().state_dict())

    def dump(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "step": self.step,
            "history": self.history,
            "since_best": self.since_best,
            "network": self.network.state_dict(),
            "best": self.best,
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state(),
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.step, self.history, self.since_best = kept["step"], kept["history"], kept["since_best"]
        self.network.load_state_dict(kept["network"])
        self.best = kept["best"]
        if self.average is not None:
            self.average.load_state_dict(kept["average"])
        self.optimiser.restore(kept["optimiser"])

    def _served(self) -> nn.Module:
        begun = self.average is not None and int(self.average.n_averaged) > 0
        module: nn.Module = self.average.module if self.average is not None and begun else self.network
        return module


class Draw:
    """Batches of places by step, from 1: all of the pool in random order, then again; or weighted, with replacement."""

    def __init__(self, pool: Places, size: int, *, seed: int, weights: NDArray[np.float64] | None = None) -> None:
        self._pool, self._size, self._seed = pool, min(size, len(pool)), seed
        self._bounds = None if weights is None else np.cumsum(weights)
        self._epoch, self._order = -1, pool

    def __call__(self, step: int, rng: np.random.Generator) -> Places:
        """The places of a step; `rng` is the step's own."""
        if self._bounds is not None:
            places: Places = self._pool[np.searchsorted(self._bounds, rng.random(self._size) * self._bounds[-1])]
            return places
        epoch, at = divmod(step - 1, len(self._pool) // self._size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(self._pool)
        return self._order[at * self._size : (at + 1) * self._size]
