"""What a run learns from, and what is learnt of it before the first step: vocabulary, means, deviations.

An example is an instant: the window after it, its labels, and for which horizons they count. Knows no optimiser.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from worker.scoring import aggregates, encode, forward, model
from worker.scoring.batch import Batch, Floats
from worker.scoring.head import Shape
from worker.scoring.weights import Weights
from worker.training.labels import AUXILIARY, Events, auxiliary, labels, member
from worker.training.windows import Windows

Places = NDArray[np.int64]
Bools = NDArray[np.bool_]

VOCABULARY_WINDOWS: Final = 200_000
STANDARD_WINDOWS: Final = 50_000
"""Windows drawn for the vocabulary, and for the aggregates' means and deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Of n events. The targets are the horizons and, behind them, what `labels.auxiliary` says or nothing."""

    windows: Windows
    y: Bools | Floats  # [n, targets]; soft labels where another model's answers are mixed in
    counted: Bools  # [n, targets] whether the label is to be learnt
    session: NDArray[np.int64]  # [n]
    visitor: NDArray[np.int64]  # [n]
    time_ms: NDArray[np.int64]  # [n]

    @classmethod
    def of(cls, events: Events, windows: Windows, which: str, *, targets: Bools | None = None) -> "Examples":
        """The instants of a slice (one of `labels.SLICES`). `targets` stand in for the true labels."""
        y = labels(events) if targets is None else targets
        return cls.where(events, windows, y=y, counted=member(events, which))

    @classmethod
    def where(cls, events: Events, windows: Windows, *, y: Bools | Floats, counted: Bools) -> "Examples":
        """The instants that are `counted`, [n, HORIZONS] as their labels `y`."""
        return cls(
            windows=windows,
            y=y,
            counted=counted,
            session=events.session,
            visitor=events.visitor,
            time_ms=events.time_ms,
        )

    def taught_beside(self, events: Events) -> "Examples":
        """The same, with the auxiliary labels of these events as further targets."""
        return replace(
            self,
            y=np.concatenate([self.y, auxiliary(events)], axis=1),
            counted=np.concatenate([self.counted, self.counted[:, [at for _, at in AUXILIARY]]], axis=1),
        )

    @property
    def pool(self) -> Places:
        """The instants of which at least one label counts."""
        return np.flatnonzero(self.counted.any(axis=1))

    def sessions(self) -> Places:
        """The last such instant of each session: its window shows the session whole."""
        pool = self.pool
        _, backward = np.unique(self.session[pool[::-1]], return_index=True)
        return np.sort(pool[::-1][backward])

    def weights(self, *, even: float = 0.0, half_life_days: float = 0.0) -> NDArray[np.float64] | None:
        """[len(pool)] how often each instant is to be drawn beside the others; None: all as often.

        1 / events of the session ** `even`: the windows of a session are near copies of one another, and one of 300
        events has not 300 times as much to say. Half as often for each `half_life_days` (0: never) before the newest
        instant: shops change, and the model is to score what comes next.
        """
        if not even and not half_life_days:
            return None
        pool = self.pool
        _, which, count = np.unique(self.session[pool], return_inverse=True, return_counts=True)
        weights: NDArray[np.float64] = count[which].astype(np.float64) ** -even
        if half_life_days:
            time = self.time_ms[pool]
            weights *= 0.5 ** ((time.max() - time) / (half_life_days * 86_400_000))
        return weights


def fresh(examples: Examples, shape: Shape, *, seed: int) -> tuple[model.IntentModel, encode.Vocabulary]:
    """A network that has learnt nothing, but for the vocabulary and the aggregates' scales, from the examples alone."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(examples.pool)
    vocabulary = learn_vocabulary(examples.windows, drawn[:VOCABULARY_WINDOWS])
    network = model.build(shape, vocabulary, targets=examples.y.shape[1])
    standardise(network, examples.windows, drawn[-STANDARD_WINDOWS:])
    return network, vocabulary


def learn_vocabulary(windows: Windows, places: Places, *, least: int = 20) -> encode.Vocabulary:
    """What was seen at least so often in the places' windows owns an embedding row."""
    return encode.learn([Batch.of(windows.take(part)) for part in parts(places)], least=least)


def standardise(network: model.IntentModel, windows: Windows, places: Places) -> None:
    """Sets the head's means and deviations of the aggregates; one that does not vary is left as it is."""
    sums = np.concatenate([aggregates.aggregates(Batch.of(windows.take(part))) for part in parts(places)])
    deviation = sums.std(axis=0)
    network.head.means.copy_(torch.from_numpy(sums.mean(axis=0)))
    network.head.deviations.copy_(torch.from_numpy(np.where(deviation > 1e-4, deviation, 1.0).astype(np.float32)))


def predict(
    weights: Weights, vocabulary: encode.Vocabulary, windows: Windows, places: Places, *, device: str = "cpu"
) -> Floats:
    """[len(places), HORIZONS] logits, by the code that serves."""
    logits = [
        forward.logits(weights, vocabulary, Batch.of(windows.take(part)), device=torch.device(device))
        for part in parts(places, size=8192)
    ]
    return np.concatenate(logits)


def parts(places: Places, *, size: int = 20_000) -> Iterator[Places]:
    """Cuts places into pieces that fit into memory once decoded."""
    return (places[start : start + size] for start in range(0, len(places), size))
