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

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.scores import RISK_REASONS
from worker.scoring.batch import KIND, Batch, Floats, Heads, Kinds, Rows
from worker.scoring.compiled import compiled

SHOWN: Final = 0.25
"""Strength from which a sign's code is given."""

BURST_MS: Final = 10_000
FAST_MS: Final = 1_000
DWELL_MS: Final = 2_000
LEAST_GAPS: Final = 10
LEAST_PAGES: Final = 20


class _Places(NamedTuple):
    """Where each sign stands."""

    burst: int
    machine_pace: int
    repetition: int
    no_dwell: int


_PLACES = _Places(**{code: place for place, code in enumerate(RISK_REASONS)})


def risk(batch: Batch) -> tuple[Floats, NDArray[np.uint8]]:
    """[B] score in [0, 1] and [B] mask of `RISK_REASONS`, bit i for code i."""
    score, mask = np.empty(len(batch), np.float32), np.empty(len(batch), np.uint8)
    _risk(batch.heads, batch.rows, KIND, _PLACES, score, mask)
    return score, mask


@compiled
def _risk(heads: Heads, rows: Rows, kinds: Kinds, places: _Places, score: Floats, mask: NDArray[np.uint8]) -> None:
    strength = np.empty(len(places), np.float64)
    for i in range(len(heads.lengths)):
        oldest, newest = heads.first[i], heads.first[i] + heads.lengths[i] - 1
        gaps = fast = pages = hurried = most = longest = run = 0
        since = oldest
        for n in range(oldest, newest + 1):
            while rows.age_ms[since] - rows.age_ms[n] > BURST_MS:
                since += 1
            most = max(most, n - since + 1)
            same = n > oldest and (
                rows.kind[n] == rows.kind[n - 1]
                and rows.item[n] == rows.item[n - 1]
                and rows.page[n] == rows.page[n - 1]
            )
            run = run + 1 if same else 1
            longest = max(longest, run)
            if rows.sessions_back[n] > 0:
                continue
            if not rows.opens[n]:
                gaps += 1
                fast += rows.gap_ms[n] < FAST_MS
            is_page = rows.kind[n] in (kinds.page_view, kinds.view_item_list, kinds.view_item, kinds.view_cart)
            if is_page and n < newest:  # the page still open is not left yet
                pages += 1
                hurried += rows.gap_ms[n + 1] < DWELL_MS
        strength[places.burst] = _ramp(most, 12, 40)
        strength[places.machine_pace] = _ramp(fast / max(gaps, 1), 0.60, 0.95) if gaps >= LEAST_GAPS else 0.0
        strength[places.repetition] = _ramp(longest, 6, 24)
        strength[places.no_dwell] = _ramp(hurried / max(pages, 1), 0.70, 1.0) if pages >= LEAST_PAGES else 0.0
        doubt, shown = 1.0, 0
        for place in range(len(strength)):
            doubt *= 1 - strength[place]
            shown |= (strength[place] >= SHOWN) << place
        score[i], mask[i] = 1 - doubt, shown


@compiled
def _ramp(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)
