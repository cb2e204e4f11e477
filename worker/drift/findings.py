"""Counts beside their reference: how far each feature has moved, whether that may be chance, what moved most. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from worker.drift.psi import Counts, Verdict, least, noise, parts, psi, verdict
from worker.drift.reference import Reference
from worker.drift.values import KNOWN, UNSEEN, title

ORDER: Final = ("act", "watch", "too few", "fine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One feature."""

    feature: str
    seen: int
    """Counted."""
    least: int
    """So many it takes for noise to stay below the first bound."""
    psi: float
    noise: float
    """What PSI reaches without any drift in one of a hundred samples of this size."""
    verdict: Verdict
    moved: str
    """The bin that adds most to PSI, and its share before and now."""
    was: float
    now: float


def findings(reference: Reference, counts: Counts, names: Mapping[int, str] | None = None) -> list[Finding]:
    """One a feature, in the reference's order. `counts` as `values.count` gives them, added up; `names` of hashes."""
    found = []
    for start, feature in zip(reference.starts.tolist(), reference.features, strict=False):
        seen = counts[start : start + feature.bins]
        value, chance = psi(feature.counts, seen), noise(feature.counts, seen, effect=feature.effect)
        shares = [part / max(int(part.sum()), 1) for part in (feature.counts, seen)]
        most = int(np.argmax(parts(feature.counts, seen)))
        found.append(
            Finding(
                feature=feature.name,
                seen=int(seen.sum()),
                least=least(feature.counts, effect=feature.effect),
                psi=value,
                noise=chance,
                verdict=verdict(value, chance),
                moved=title(feature, most, names),
                was=float(shares[0][most]),
                now=float(shares[1][most]),
            )
        )
    return found


def unseen_items(reference: Reference, counts: Counts) -> float | None:
    """The share of events with an item whose item has no row of its own in the model; None without such events."""
    for start, feature in zip(reference.starts.tolist(), reference.features, strict=False):
        if feature.name == "item":
            of = {place: int(counts[start + int(feature.places(np.array([place]))[0])]) for place in (KNOWN, UNSEEN)}
            total = of[KNOWN] + of[UNSEEN]
            return of[UNSEEN] / total if total else None
    return None
