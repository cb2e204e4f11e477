"""What is watched of a scored window: its newest event, its aggregates, its scores. Live, job and training share it.

The clock is left out (an hour of traffic is no drift), and what another feature tells already. What belongs to a
session is counted at the event that opens it: an event each would count long sessions a hundred times.
"""

from collections.abc import Collection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worker.drift.reference import Feature, Reference
from worker.events import KINDS
from worker.scores import HORIZONS
from worker.scoring import aggregates, encode
from worker.scoring.batch import Batch, Bools, Floats

NOTHING: Final = 0
KNOWN: Final = 1
UNSEEN: Final = 2
"""The feature `item`: the newest event has none, one with a row of its own, one without."""

NAMES: Final = ("kind", "item", "category", "channel", "device")
NUMBERS: Final = ("gap_ms", "price_cents", "window_events")
PER_SESSION: Final = frozenset({"channel", "device"})
AGGREGATES: Final = tuple(
    name
    for name in aggregates.SCALARS
    if name not in {"events", "gap_seconds", "newest_price", "hour_sine", "hour_cosine", "weekend"}
)
"""Those that a reference may choose from."""

_AGGREGATE: Final = {name: at for at, name in enumerate(aggregates.NAMES)}
_CONTEXT: Final = {name: at for at, name in enumerate(encode.CONTEXT)}


def of(batch: Batch, intent: Floats, vocabulary: encode.Vocabulary, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
    """[B] values of each wanted feature of `NAMES`, `NUMBERS`, `AGGREGATES` and the horizons, `intent` being [B, 3]."""
    newest, rows, heads = batch.newest, batch.rows, batch.heads
    found: dict[str, NDArray[Any]] = {
        "kind": rows.kind[newest],
        "item": _items(rows.item[newest], vocabulary),
        "category": rows.category[newest],
        "gap_ms": rows.gap_ms[newest],
        "price_cents": rows.price_cents[newest],
        "window_events": heads.lengths,
        **{name: heads.context[:, _CONTEXT[name]] for name in ("channel", "device")},
        **{name: intent[:, at] for at, name in enumerate(HORIZONS)},
    }
    chosen = [name for name in wanted if name in _AGGREGATE]
    if chosen:
        sums = aggregates.aggregates(batch)
        found |= {name: sums[:, _AGGREGATE[name]] for name in chosen}
    return {name: found[name] for name in wanted}


def opening(batch: Batch) -> Bools:
    """[B] whether the newest event opens a session."""
    return np.asarray(batch.rows.opens[batch.newest], np.bool_)


def count(batch: Batch, intent: Floats, vocabulary: encode.Vocabulary, reference: Reference) -> NDArray[np.int64]:
    """The windows by bin, all features' bins behind one another (`Reference.starts`)."""
    found = of(batch, intent, vocabulary, [feature.name for feature in reference.features])
    opens = opening(batch)
    places = [
        start + feature.places(found[feature.name][opens] if feature.name in PER_SESSION else found[feature.name])
        for start, feature in zip(reference.starts.tolist(), reference.features, strict=False)
    ]
    return np.bincount(np.concatenate(places), minlength=int(reference.starts[-1])).astype(np.int64)


def title(feature: Feature, place: int) -> str:
    """What a bin holds, for people: a name where there is one, else bounds or a hash."""
    if feature.names is not None and place > 0:
        value = int(feature.names[place - 1])
        if feature.name == "kind":
            return KINDS[value] if value < len(KINDS) else str(value)
        if feature.name == "item":
            return ("no item", "known", "not seen")[value]
        if value == NOTHING:
            return "none"
    return feature.title(place)


def _items(hashes: NDArray[np.uint32], vocabulary: encode.Vocabulary) -> NDArray[np.int64]:
    known = vocabulary.items
    if not len(known):
        return np.where(hashes == 0, NOTHING, UNSEEN)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(hashes == 0, NOTHING, np.where(known[at] == hashes, KNOWN, UNSEEN))
