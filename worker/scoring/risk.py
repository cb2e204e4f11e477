"""How little a window looks like a person's: a rule that needs no data, or, where the bundle knows them, its habits.

There are no labels of fraud, so nothing here was fitted to any. Signs are measured on the window. Without `Habits`, the
first four are turned into strengths from 0 (ordinary) to 1 (no person does this) and joined as independent doubts,
``1 - prod(1 - s)``; a code is given when its sign's strength reaches `SHOWN`.

=============  ============================================================================ ======== ========
sign           measured                                                                      0 up to  1 from
=============  ============================================================================ ======== ========
burst          most events within 10 s                                                       12       40
machine_pace   share of gaps below 1 s in the session, from 10 gaps on                       60 %     95 %
repetition     longest run of the same kind, item and page                                   6        24
no_dwell       share of pages left within 2 s, from 20 page views of the session on          70 %     100 %
=============  ============================================================================ ======== ========

With `Habits` (`worker.scoring.habits`) all signs are measured, and the score says how rare such a window is: 0.999 is
exceeded by one ordinary window in a thousand. Thresholds for action belong to the reader of the score.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.scores import RISK_REASONS
from worker.scoring import habits
from worker.scoring.batch import Batch, Floats
from worker.scoring.compiled import compiled
from worker.scoring.habits import Habits

SHOWN: Final = 0.25
"""Strength from which a sign's code is given."""

RULE: Final = {"burst": (12.0, 40.0), "machine_pace": (0.60, 0.95), "repetition": (6.0, 24.0), "no_dwell": (0.70, 1.0)}
"""The table's last two columns. Its signs are the first of `RISK_REASONS`."""

_PLACES = np.array([RISK_REASONS.index(code) for code in RULE])
_LOW, _HIGH = (np.array([ends[at] for ends in RULE.values()]) for at in (0, 1))


def risk(batch: Batch, known: Habits | None = None) -> tuple[Floats, NDArray[np.uint8]]:
    """[B] score in [0, 1] and [B] mask of `RISK_REASONS`, bit i for code i."""
    if known is not None:
        return habits.rarity(habits.signs(batch, known), known)
    score, mask = np.empty(len(batch), np.float32), np.empty(len(batch), np.uint8)
    _rule(habits.signs(batch), _PLACES, _LOW, _HIGH, SHOWN, score, mask)
    return score, mask


@compiled
def _rule(
    signs: Floats,
    places: NDArray[np.int64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    shown: float,
    score: Floats,
    mask: NDArray[np.uint8],
) -> None:
    for i in range(len(signs)):
        doubt, codes = 1.0, 0
        for at in range(len(places)):
            strength = min(max((signs[i, places[at]] - low[at]) / (high[at] - low[at]), 0.0), 1.0)
            doubt *= 1 - strength
            codes |= (strength >= shown) << places[at]
        score[i], mask[i] = 1 - doubt, codes
