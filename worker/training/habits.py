"""Learns what is usual: a Markov chain of events and the levels of every sign, from the training slice alone.

Nothing is labelled: the slice has its own machines in it, which make the habits a little wider than people's.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.scores import RISK_REASONS
from worker.scoring import habits
from worker.scoring.batch import Batch, Floats
from worker.scoring.habits import FAR, GAPS, LEVELS, STEPS, SYMBOLS, Chain, Habits
from worker.training.labels import Events, member, ordinal
from worker.training.windows import Windows

Doubles = NDArray[np.float64]

PRIOR: Final = 20.0
"""Counts that a coarser estimate is worth beside the finer one's."""

CHAIN_WINDOWS: Final = 500_000
LEVEL_WINDOWS: Final = 200_000
"""Drawn at most: so many tell one in 100,000."""

A_VISITOR: Final = 20
"""Windows at most: habits are the visitors', and a machine among them has hundreds."""

_TOGETHER: Final = 20_000


def fit(events: Events, windows: Windows, *, seed: int) -> Habits:
    """From the 24 h horizon's training slice. About 10 s on one core."""
    places = np.random.default_rng(seed).permutation(np.flatnonzero(member(events, "train")[:, 1]))
    drawn = places[ordinal(events.visitor[places]) <= A_VISITOR][:CHAIN_WINDOWS]
    batches = [Batch.of(windows.take(drawn[start : start + _TOGETHER])) for start in range(0, len(drawn), _TOGETHER)]
    return learn(batches, batches[: LEVEL_WINDOWS // _TOGETHER])


def learn(batches: Sequence[Batch], levels: Sequence[Batch]) -> Habits:
    """The chain from the newest steps of `batches`' windows, so that an event counts once however many windows hold it;
    the levels from all that `levels`' windows show.
    """
    made = chain(count(batches))
    signs = len(RISK_REASONS)
    blank = Habits(chain=made, levels=np.zeros((signs, LEVELS), np.float32), joined=np.zeros(LEVELS, np.float32))
    measured = np.concatenate([habits.signs(batch, blank) for batch in levels])
    each = np.stack([ladder(measured[:, at].astype(np.float64)) for at in range(signs)])
    rarest = habits.decades(measured, each).max(axis=1)
    return Habits(chain=made, levels=each, joined=ladder(rarest))


def count(batches: Sequence[Batch]) -> Doubles:
    """[SYMBOLS, SYMBOLS] how often a symbol followed another as a window's newest step."""
    counts = np.zeros(SYMBOLS * SYMBOLS, np.int64)
    for batch in batches:
        symbols = habits.symbols(batch)
        newest = batch.newest[batch.lengths >= 3]
        counts += np.bincount(symbols[newest - 1] * SYMBOLS + symbols[newest], minlength=len(counts))
    return counts.reshape(SYMBOLS, SYMBOLS).astype(np.float64)


def chain(counts: Doubles) -> Chain:
    """Smoothed from coarse to fine: all steps, steps after the same kind, steps after the same symbol."""
    everything = counts.sum(axis=0)
    coarse = (everything + 1) / (everything.sum() + SYMBOLS)
    by_kind = counts.reshape(-1, GAPS * 2, SYMBOLS).sum(axis=1)
    middle = (by_kind + PRIOR * coarse) / (by_kind.sum(axis=1, keepdims=True) + PRIOR)
    before = np.repeat(middle, GAPS * 2, axis=0)
    p = (counts + PRIOR * before) / (counts.sum(axis=1, keepdims=True) + PRIOR)
    surprise = -np.log(p)
    expected = (p * surprise).sum(axis=1)
    variance = (p * (surprise - expected[:, None]) ** 2).sum(axis=1)
    return Chain(*(part.astype(np.float32) for part in (surprise, expected, variance)))


def ladder(values: Doubles) -> Floats:
    """[LEVELS] the least of [n] values that at most 10 ** -(t / STEPS) of them reach, or just above the greatest.

    `FAR` where that share is below one of n: so many values cannot tell it.
    """
    unique, counts = np.unique(values.astype(np.float32), return_counts=True)
    reach = np.append(np.cumsum(counts[::-1])[::-1] / len(values), 0.0)  # the share at least as large as each
    choices = np.append(unique, np.nextafter(unique[-1], np.float32(np.inf)))
    shares = 10.0 ** (-np.arange(LEVELS) / STEPS)
    at = np.searchsorted(-reach, -shares - 1e-12)
    return np.where(shares * len(values) >= 1 - 1e-9, choices[at], FAR).astype(np.float32)
