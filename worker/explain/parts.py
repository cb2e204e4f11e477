"""What an explanation divides a window into: its events, groups of aggregates, the fields of its context.

Owns the window that lacks some of its events. Such a window is encoded anew, aggregates included: it is what the
worker would hold had these events never come. Only what more than 64 events have pushed out does not come back, and
what the context tells of the session stays the newest session's. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker import window
from worker.events import KINDS
from worker.scoring.aggregates import NAMES
from worker.scoring.encode import COLUMNS

Doubles = NDArray[np.float64]

UNKNOWN: Final = 1
"""A context field's row for any value that training has not seen: what training puts for a field that it hides."""

_SCALARS: Final = {
    "pace": (
        "session_seconds",
        "gap_seconds",
        "session_mean_gap_seconds",
        "session_longest_gap_seconds",
        "gaps_below_1s",
        "gaps_over_60s",
    ),
    "length": ("events", "session_events"),
    "visits": ("sessions", "visit_number", "pause_before_session_seconds"),
    "breadth": (
        "items",
        "session_items",
        "pages",
        "session_pages",
        "newest_item_seen",
        "newest_page_seen",
    ),
    "prices": ("newest_price", "highest_price"),
    "cart": (
        "cart_price",
        "cart_added_since_purchase",
        "cart_removed_since_purchase",
        "checkout_since_purchase",
        "events_since_purchase",
    ),
    "clock": ("hour_sine", "hour_cosine", "weekend"),
}
_BY_KIND: Final = {
    "counts of kinds": ("count", "session_count"),
    "time since kinds": ("seconds_ago",),
    "newest two kinds": ("newest", "before"),
}


def _groups() -> dict[str, NDArray[np.int64]]:
    named = {
        **{group: [f"{kind}_{what}" for what in whats for kind in KINDS] for group, whats in _BY_KIND.items()},
        **{group: list(names) for group, names in _SCALARS.items()},
    }
    named["other"] = sorted(set(NAMES).difference(*named.values()))
    return {group: np.array([NAMES.index(name) for name in names], np.int64) for group, names in named.items() if names}


GROUPS: Final = _groups()
"""Groups of aggregates by name: the columns of each. Every column is in one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What each part of one window contributes to one horizon's calibrated logit."""

    events: Doubles  # [n] oldest first; not a number for the only event of a window, which cannot be left out
    aggregates: Doubles  # [len(GROUPS)]
    context: Doubles  # [columns] a bundle may have the first of `COLUMNS` only

    def document(self) -> dict[str, object]:
        """For programs."""
        return {
            "events": [None if np.isnan(value) else round(float(value), 4) for value in self.events],
            "aggregates": dict(zip(GROUPS, self.aggregates.round(4).tolist(), strict=True)),
            "context": dict(zip(COLUMNS, self.context.round(4).tolist(), strict=False)),
        }


def only(encoded: bytes, places: Sequence[int]) -> bytes:
    """The window with these of its events only (at least one, ascending), cut off behind its rows."""
    newest = window.newest_ms(encoded)
    rows = [encoded[at : at + window.ROW.size] for at in (window.ROWS_AT + place * window.ROW.size for place in places)]
    age_ms = (newest - int.from_bytes(rows[-1][:4], "little")) % (1 << 32)
    header = window.HEADER.pack(window.VERSION, len(rows), len(rows), 0, newest - age_ms)
    return b"".join((header, encoded[window.HEADER.size : window.ROWS_AT], *rows))


def without_each(encoded: bytes) -> list[bytes]:
    """For each event, oldest first, the window without it; none for a window of one event."""
    n = window.length(encoded)
    return [only(encoded, [place for place in range(n) if place != left]) for left in range(n)] if n > 1 else []
