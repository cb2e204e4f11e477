"""What is watched of a scored window: its newest event, its aggregates, its scores. Live, job and training share it.

The clock is left out (an hour of traffic is no drift), and what another feature tells already. What belongs to a
session is counted at the event that opens it: an event each would count long sessions a hundred times.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worker import facts
from worker.drift.reference import Feature, Reference
from worker.events import KINDS, Event
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


def checked(reference: Reference) -> Reference:
    """The reference; `ValueError` for a feature that `of` does not give, or items in other bins than its own."""
    for feature in reference.features:
        if feature.name not in {*NAMES, *NUMBERS, *HORIZONS, *_AGGREGATE}:
            raise ValueError(f"{feature.name!r} is no feature that this version watches")
        names = None if feature.names is None else feature.names.tolist()
        if feature.name == "item" and names != [NOTHING, KNOWN, UNSEEN]:
            raise ValueError(f"the names of item are {names}, not {[NOTHING, KNOWN, UNSEEN]}")
    return reference


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


def title(feature: Feature, place: int, names: Mapping[int, str] | None = None) -> str:
    """What a bin holds, for people: a name where there is one (`names` are those of hashes), else bounds or a hash."""
    if feature.names is not None:
        if place == 0:
            return "others"
        value = int(feature.names[place - 1])
        if feature.name == "kind":
            return KINDS[value] if value < len(KINDS) else str(value)
        if feature.name == "item":
            return ("no item", "known", "not seen")[value]
        return "none" if value == NOTHING else (names or {}).get(value, f"#{value:08x}")
    assert feature.edges is not None
    edges = np.expm1(feature.edges) if feature.name in _AGGREGATE else feature.edges  # those are logarithms
    if place == 0:
        return "no event before" if feature.name == "gap_ms" else f"under {_number(edges[0])}"
    low = _number(edges[place - 1])
    return f"{low} or more" if place == len(edges) else f"{low} to {_number(edges[place])}"


def hashes(event: Event) -> Iterator[tuple[int, str]]:
    """The event's texts that a reference may know by their hashes: channel, device and category."""
    context, items = event.context, event.items
    texts = (context and context.channel, context and context.device, items[0].item_category if items else None)
    return ((facts.hash32(text), text) for text in texts if text)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _items(hashes: NDArray[np.uint32], vocabulary: encode.Vocabulary) -> NDArray[np.int64]:
    known = vocabulary.items
    if not len(known):
        return np.where(hashes == 0, NOTHING, UNSEEN)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(hashes == 0, NOTHING, np.where(known[at] == hashes, KNOWN, UNSEEN))
