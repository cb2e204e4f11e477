"""Windows as they might have been: cut off, with events hidden, with time stretched. For training only; off by default.

Aggregates are computed from what comes out of here, so events, aggregates and context stay of one piece. Items are
dropped by the encoder itself (`encode.tokens`, `forgotten`). Knows decoded batches; no model and no torch.
"""

import numpy as np
from numpy.typing import NDArray

from worker.scoring.batch import Batch
from worker.scoring.encode import NOTHING


def crop(batch: Batch, rng: np.random.Generator, *, share: float) -> Batch:
    """So many of the windows, in [0, 1], lose their oldest events: as many as leaves 1 to all, uniformly."""
    lengths = batch.lengths
    cut = rng.random(len(batch)) < share
    left = np.where(cut, 1 + (rng.random(len(batch)) * lengths).astype(np.int64), lengths)
    window = np.repeat(np.arange(len(batch)), lengths)
    kept = np.arange(batch.events) >= (batch.newest - left + 1)[window]
    rows = type(batch.rows)(*(column[kept] for column in batch.rows))
    first = np.cumsum(left) - left
    rows.gap_ms[first] = -1
    rows.opens[first] = True
    heads = batch.heads._replace(lengths=left, first=first, sessions=rows.sessions_back[first].astype(np.int64) + 1)
    return Batch(heads, rows)


def stretch(batch: Batch, rng: np.random.Generator, *, deviation: float) -> Batch:
    """Every age and gap of a window times one factor, log-normal with this deviation: a slower or a faster visitor."""
    factor = np.repeat(np.exp(rng.normal(0.0, deviation, len(batch))), batch.lengths)
    rows = batch.rows
    gaps = np.where(rows.gap_ms > 0, rows.gap_ms * factor, rows.gap_ms).astype(np.int64)
    return Batch(batch.heads, rows._replace(age_ms=(rows.age_ms * factor).astype(np.int64), gap_ms=gaps))


def hide(tokens: NDArray[np.int32], rng: np.random.Generator, *, share: float) -> NDArray[np.int32]:
    """[N, FIELDS] with so many of the events, in [0, 1], as nothing: the BERT does not attend to them."""
    hidden = rng.random(len(tokens)) < share
    return np.where(hidden[:, None], np.int32(NOTHING), tokens)
