"""How little a window looks like a person's: a documented rule, not a learnt fraud model.

The sample has no fraud labels, so nothing here was fitted to any. Four signs are measured on the window, each turned
into a strength from 0 (ordinary) to 1 (no person does this), and joined as independent doubts: ``1 - prod(1 - s)``.
A code is given when its sign's strength reaches `SHOWN`. Thresholds for action belong to the reader of the score.

=============  ============================================================================ ======== ========
sign           measured                                                                      0 up to  1 from
=============  ============================================================================ ======== ========
burst          most events within 10 s                                                       12       40
machine_pace   share of gaps below 1 s in the session, from 10 gaps on                       60 %     95 %
repetition     longest run of the same kind, item and page                                   6        24
no_dwell       share of pages left within 2 s, from 20 page views of the session on          70 %     100 %
=============  ============================================================================ ======== ========
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.events import KINDS
from worker.scores import RISK_REASONS
from worker.scoring.batch import Batch, Floats, Ints

SHOWN: Final = 0.25
"""Strength from which a sign's code is given."""

BURST_MS: Final = 10_000
FAST_MS: Final = 1_000
DWELL_MS: Final = 2_000
LEAST_GAPS: Final = 10
LEAST_PAGES: Final = 20

_PAGES = np.isin(
    np.arange(256), [KINDS.index(name) for name in ("page_view", "view_item_list", "view_item", "view_cart")]
)


def risk(batch: Batch) -> tuple[Floats, NDArray[np.uint8]]:
    """[B] score in [0, 1] and [B] mask of `RISK_REASONS`, bit i for code i."""
    inside = batch.current & ~batch.opens
    gap_ms = batch.gap_ms
    gaps = batch.total(inside.astype(np.int64))
    fast = batch.total((inside & (gap_ms < FAST_MS)).astype(np.int64))
    left = _left(batch)
    pages = batch.total((left >= 0).astype(np.int64))
    hurried = batch.total(((left >= 0) & (left < DWELL_MS)).astype(np.int64))
    strength = {
        "burst": _ramp(_burst(batch), 12, 40),
        "machine_pace": _ramp(fast / np.maximum(gaps, 1), 0.60, 0.95) * (gaps >= LEAST_GAPS),
        "repetition": _ramp(_longest_run(batch), 6, 24),
        "no_dwell": _ramp(hurried / np.maximum(pages, 1), 0.70, 1.0) * (pages >= LEAST_PAGES),
    }
    signs = np.stack([strength[code] for code in RISK_REASONS], axis=1)  # [B, 4]
    mask = (signs >= SHOWN) @ (1 << np.arange(len(RISK_REASONS)))
    return (1 - np.prod(1 - signs, axis=1)).astype(np.float32), mask.astype(np.uint8)


def _ramp(values: NDArray[np.floating] | Ints, low: float, high: float) -> NDArray[np.float64]:
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def _burst(batch: Batch) -> Ints:
    """[B] most events that any `BURST_MS` of the window hold."""
    # one axis for all windows: windows lie further apart than any span, so that a search stays within its own
    at = (batch.owner << 33) - batch.age_ms
    since = np.searchsorted(at, at - BURST_MS, side="left")
    return np.asarray(np.maximum.reduceat(np.arange(len(at)) - since + 1, batch.first))


def _longest_run(batch: Batch) -> Ints:
    """[B] the longest run of rows that say the same."""
    row = batch.row
    same = np.zeros(len(row), np.bool_)
    same[1:] = (
        (batch.kind[1:] == batch.kind[:-1])
        & (row["item"][1:] == row["item"][:-1])
        & (row["page"][1:] == row["page"][:-1])
    )
    same[batch.first] = False
    place = np.arange(len(row))
    start = np.maximum.accumulate(np.where(same, 0, place))
    return np.asarray(np.maximum.reduceat(place - start + 1, batch.first))


def _left(batch: Batch) -> Ints:
    """[N] how long each page view of the session was left open, in ms; -1 for all else and for the page still open."""
    left = np.full(len(batch.row), -1, np.int64)
    left[:-1] = batch.gap_ms[1:]
    left[batch.newest] = -1
    return np.where(batch.current & _PAGES[batch.kind], left, -1)
