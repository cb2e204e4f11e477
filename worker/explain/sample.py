"""Windows of a source's validation slice for studies: one a visitor, of at least so many events."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from worker.errors import IntentError
from worker.shop.source import Source
from worker.training.labels import member
from worker.training.windows import build


def draw(
    source: Source,
    *,
    runs: Path,
    count: int,
    least: int,
    horizon: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> list[bytes]:
    """At most `count` windows at random. `say` hears what of the source became no event.

    Raises `IntentError` where the slice has none.
    """
    events, kept = build(source, runs / "cache", say=say)
    pool = np.flatnonzero(member(events, "validation")[:, horizon])
    pool = np.random.default_rng(seed).permutation(pool)
    _, first = np.unique(events.visitor[pool], return_index=True)
    chosen: list[bytes] = []
    for start in range(0, len(first), 1024):
        some = kept.take(pool[np.sort(first)[start : start + 1024]])
        chosen += [one for one in some if one[2] >= least]
        if len(chosen) >= count:
            break
    if len(chosen) < 2:
        raise IntentError(f"{source.name} has no validation windows of {least} events and more")
    return chosen[:count]
