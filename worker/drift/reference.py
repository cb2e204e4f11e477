"""What traffic looked like when a model was trained: a few features in bins, with counts. Part of a bundle.

Knows numbers and JSON; neither windows nor where a value comes from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from worker.drift.psi import Counts

FILE: Final = "drift.json"
"""Of a bundle, where it has one."""

MOST_BINS: Final = 1024

Values = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature's bins: between ascending `edges`; or one for each of the ascending `names`, and a first for others.

    A value on an edge belongs above it.
    """

    name: str
    edges: NDArray[np.float64] | None = None
    names: NDArray[np.int64] | None = None
    counts: Counts
    effect: float  # the design effect: so many events say as much as one independent draw

    @property
    def bins(self) -> int:
        """How many."""
        return len(self.counts)

    def places(self, values: Values) -> NDArray[np.int64]:
        """[n] values -> their bins."""
        if self.edges is not None:
            return np.searchsorted(self.edges, values.astype(np.float64), side="right").astype(np.int64)
        assert self.names is not None
        wanted = values.astype(np.int64)
        at = np.minimum(np.searchsorted(self.names, wanted), len(self.names) - 1)
        return np.where(self.names[at] == wanted, at + 1, 0).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The features, over `windows` windows of `visitors` visitors."""

    about: str
    windows: int
    visitors: int
    features: tuple[Feature, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[features + 1] where each feature's bins begin when all stand behind one another."""
        return np.cumsum([0, *(feature.bins for feature in self.features)])

    def document(self) -> dict[str, Any]:
        """For JSON; `parse` reads it."""
        return {
            "about": self.about,
            "windows": self.windows,
            "visitors": self.visitors,
            "features": [
                {
                    "name": feature.name,
                    **({} if feature.edges is None else {"edges": feature.edges.tolist()}),
                    **({} if feature.names is None else {"names": feature.names.tolist()}),
                    "counts": feature.counts.tolist(),
                    "effect": round(feature.effect, 3),
                }
                for feature in self.features
            ],
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Raises `LookupError`, `TypeError` or `ValueError` for anything that `document` did not make."""
        features = tuple(_feature(entry) for entry in document["features"])
        if not features:
            raise ValueError("it has no feature")
        return cls(
            about=str(document["about"]),
            windows=int(document["windows"]),
            visitors=int(document["visitors"]),
            features=features,
        )


def _feature(entry: Mapping[str, Any]) -> Feature:
    name, effect = str(entry["name"]), float(entry["effect"])
    edges = np.array(entry["edges"], np.float64) if "edges" in entry else None
    names = np.array(entry["names"], np.int64) if "names" in entry else None
    counts = np.array(entry["counts"], np.int64)
    bounds = edges if edges is not None else names
    if bounds is None or (edges is not None and names is not None):
        raise ValueError(f"{name} has edges or names, one of them")
    if not (bounds.ndim == counts.ndim == 1 and 2 <= len(counts) == len(bounds) + 1 <= MOST_BINS):
        raise ValueError(f"{name} has {len(bounds)} bounds for {len(counts)} counts")
    if (np.diff(bounds) <= 0).any() or not np.isfinite(bounds).all():
        raise ValueError(f"the bounds of {name} do not ascend")
    if (counts < 0).any() or not 1 <= effect < np.inf:
        raise ValueError(f"{name} has counts below 0, or a design effect that is none")
    return Feature(name=name, edges=edges, names=names, counts=counts, effect=effect)
