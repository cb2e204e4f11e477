"""How a checkpoint is chosen: on a fixed sample of a slice, scored by the code that serves."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from worker.scoring import encode, model
from worker.scoring.batch import Floats
from worker.training.examples import Bools, Examples, predict
from worker.training.metrics import measure

HORIZONS: Final = ("30m", "24h", "7d")


class Validation:
    """At most so many instants of a slice, 24 h and 7 d half each; the same for every plan: runs are compared on it."""

    def __init__(self, examples: Examples, vocabulary: encode.Vocabulary, *, windows: int, device: str) -> None:
        rng = np.random.default_rng(0)
        drawn = [
            rng.permutation(np.flatnonzero(column))[: windows // 2]
            for column in (examples.counted[:, 1], examples.counted[:, 2])
        ]
        self.places = np.unique(np.concatenate(drawn))
        self.counted, self.y = examples.counted[self.places], examples.y[self.places]
        self._windows, self._vocabulary, self._device = examples.windows, vocabulary, device

    def __call__(self, network: model.IntentModel) -> dict[str, float]:
        """What `measured` says of its logits."""
        served = replace(model.weights(network), head=network.head.narrowed())
        out = predict(served, self._vocabulary, self._windows, self.places, device=self._device)
        return measured(out, self.y, self.counted)


def measured(out: Floats, y: Bools | Floats, counted: Bools) -> dict[str, float]:
    """AUC, AP and log loss by horizon of [n, HORIZONS] logits, and the `score`: the mean over horizons of AUC + AP.

    A horizon where one outcome only came has no say in the score: a small shop's week may pass without a buyer.
    """
    result: dict[str, float] = {}
    for at, name in enumerate(HORIZONS):
        rows = counted[:, at]
        found = measure(1 / (1 + np.exp(-out[rows, at].astype(np.float64))), y[rows, at])
        result |= {f"{metric}_{name}": found[metric] for metric in ("auc", "ap", "log_loss")}
    ranked = [result[f"auc_{name}"] + result[f"ap_{name}"] for name in HORIZONS]
    told = [sum_ for sum_ in ranked if not math.isnan(sum_)]
    return result | {"score": sum(told) / max(len(told), 1)}
