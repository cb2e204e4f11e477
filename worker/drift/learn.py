"""A bundle's reference, from windows of the time it was chosen on: which aggregates matter, where the bins lie.

Numbers are cut at deciles, "none" apart; of names the most frequent get a bin each. The model was not fitted to these
windows, so that their scores are as spread as a live stream's; a refit has seen their labels, and scores them a little
more surely than a stream's.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from worker.drift import values
from worker.drift.psi import design_effect
from worker.drift.reference import Feature, Reference
from worker.scores import HORIZONS
from worker.scoring import forward
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.training.labels import Codes
from worker.training.ranks import rank_correlation
from worker.training.windows import Windows

WINDOWS: Final = 100_000
"""At most so many are looked at: all of each drawn visitor's."""

IMPORTANT: Final = 8
"""So many aggregates are watched: those whose ranks go most with the 24 h score's."""

FREQUENT: Final = 12
"""So many names have a bin of their own."""

_PART = 16_384


def learn(
    bundle: Bundle,
    windows: Windows,
    places: NDArray[np.int64],
    visitor: Codes,
    *,
    about: str,
    seed: int = 0,
    device: str = "cpu",
) -> Reference:
    """The reference of the windows at `places`, [n], of the `visitor` [n] each. Some 30 s of one core."""
    kept = _whole_visitors(visitor, seed)
    places, visitor = places[kept], np.unique(visitor[kept], return_inverse=True)[1]
    wanted = [*values.NAMES, *values.NUMBERS, *values.AGGREGATES, *HORIZONS]
    parts: list[dict[str, NDArray[Any]]] = []
    opens = []
    for start in range(0, len(places), _PART):
        chosen = places[start : start + _PART]
        batch = Batch.of(windows.take(chosen))
        logits = forward.logits(bundle.weights, bundle.vocabulary, batch, device=torch.device(device))
        parts.append(values.of(batch, bundle.calibration.probabilities(logits), bundle.vocabulary, wanted))
        opens.append(values.opening(batch))
    found = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
    opening = np.concatenate(opens)
    day = found[HORIZONS[1]]
    weight = {name: abs(rank_correlation(found[name], day)) for name in values.AGGREGATES}
    important = sorted(values.AGGREGATES, key=lambda name: -weight[name])[:IMPORTANT]
    everyone = np.ones(len(places), np.bool_)
    features = []
    for name in (*values.NAMES, *values.NUMBERS, *important, *HORIZONS):
        rows = opening if name in values.PER_SESSION else everyone
        feature = _binned(name, found[name][rows], visitor[rows])
        if feature is not None:
            features.append(feature)
    return Reference(about=about, windows=len(places), visitors=int(visitor.max()) + 1, features=tuple(features))


def _whole_visitors(visitor: Codes, seed: int) -> NDArray[np.int64]:
    """Places of all events of visitors drawn at random, up to about `WINDOWS`."""
    names, which, sizes = np.unique(visitor, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    drawn = np.zeros(len(names), np.bool_)
    drawn[order[: int(np.searchsorted(np.cumsum(sizes[order]), WINDOWS)) + 1]] = True
    return np.flatnonzero(drawn[which])


def _binned(name: str, found: NDArray[Any], visitor: Codes) -> Feature | None:
    """Bins and counts; None for a feature that says the same everywhere."""
    edges: NDArray[np.float64] | None = None
    names: NDArray[np.int64] | None = None
    if name == "item":
        names = np.array([values.NOTHING, values.KNOWN, values.UNSEEN])
    elif name in values.NAMES:
        seen, counts = np.unique(found.astype(np.int64), return_counts=True)
        names = np.sort(seen[np.argsort(-counts, kind="stable")][:FREQUENT])
    else:
        edges = _edges(found.astype(np.float64))
    bounds = edges if names is None else names
    if bounds is None or not len(bounds):
        return None
    bins = len(bounds) + 1
    empty = Feature(name=name, edges=edges, names=names, counts=np.zeros(bins, np.int64), effect=1.0)
    _, owner = np.unique(visitor, return_inverse=True)
    places = empty.places(found)
    table = np.bincount(owner * bins + places, minlength=(int(owner.max()) + 1) * bins).reshape(-1, bins)
    return Feature(name=name, edges=edges, names=names, counts=table.sum(axis=0), effect=design_effect(table))


def _edges(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deciles. Where many share the least value, which is "none" for a price or a gap, it has a bin of its own."""
    deciles = np.arange(1, 10) / 10
    rest = found[found > found.min()]
    if 0 < len(rest) < 0.95 * len(found):
        return np.unique(np.append(rest.min(), np.quantile(rest, deciles, method="lower")))
    edges = np.unique(np.quantile(found, deciles, method="lower"))
    return np.asarray(edges[edges > found.min()])
