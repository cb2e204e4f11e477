"""Whom and when: the populations that a slice is cut into. Knows neither scores nor metrics."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.facts import hash32
from worker.scoring.encode import CONTEXT
from worker.training.features import Features
from worker.training.labels import Bools, Events, decision_points, ordinal

Populations = dict[str, dict[str, Bools]]
"""By what a slice is cut, and each part's [n] members."""

EVERY: Final = "every instant"
DECISION: Final = "decision point"

EVENT_NUMBERS: Final = {"1": (1, 1), "2": (2, 2), "3-5": (3, 5), "6-10": (6, 10), "11-20": (11, 20), "21+": (21, None)}
"""Of an event in its session: first and last of each part."""


def populations(
    events: Events, places: NDArray[np.int64], features: Features, names: Mapping[str, list[str]]
) -> Populations:
    """Of the n instants at `places`, whose `features` are given: decision points, event numbers, channels, and so on.

    `names` are the values that the context fields `channel` and `device` take: a window keeps only their hashes.
    """
    points = {name: chosen[places] for name, chosen in decision_points(events).items()}
    number = ordinal(events.session)[places]
    return {
        EVERY: {EVERY: points.pop(EVERY)},
        DECISION: points,
        "event of the session": {
            name: (number >= first) & (number <= (last or number.max()))
            for name, (first, last) in EVENT_NUMBERS.items()
        },
        **{field: _named(features.hashes[:, CONTEXT.index(field)], values) for field, values in names.items()},
        "visitor": {"new": features.visit_number == 1, "returning": features.visit_number > 1},
    }


def _named(hashes: NDArray[np.uint32], names: list[str]) -> dict[str, Bools]:
    """Members of each name, most frequent first; names without members are left out."""
    found = {name: hashes == hash32(name) for name in names}
    ordered = sorted(found, key=lambda name: -int(found[name].sum()))
    return {name: found[name] for name in ordered if found[name].any()}
