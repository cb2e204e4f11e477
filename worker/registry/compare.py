"""Two bundles' own numbers side by side, for whoever is about to promote one. Pure.

A bundle may carry `metrics.json`: what `intent evaluate` says of it. Of two that were measured on the same
slice, one is worse where its interval lies wholly below the other's: what may be chance holds nothing up.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.errors import SettingError

FILE: Final = "metrics.json"  # `scoring.bundle.METRICS`, said again: this module knows neither torch nor the bundle
MEASURED: Final = ("ap", "auc")
"""What is compared; of both, more is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one horizon and population: (value, low, high) each."""

    horizon: str
    population: str
    metric: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]

    @property
    def worse(self) -> bool:
        """Beyond the intervals."""
        return self.after[2] < self.before[1]


def compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[Row]:
    """Rows for all that both were measured on; none where one carries no numbers, or of another slice.

    Takes the bundles' files, as `bundle.verify` gives them. Raises `SettingError` for numbers that cannot be read.
    """
    if FILE not in before or FILE not in after:
        return []
    try:
        old, new = (_lines(files[FILE]) for files in (before, after))
        return [
            Row(horizon=key[1], population=key[2], metric=key[3], before=_estimate(old[key]), after=_estimate(new[key]))
            for key in new
            if key in old
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise SettingError(f"{FILE} of a bundle is not what `intent evaluate --json` writes: {error!r}") from None


def _lines(content: bytes) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """By slice, horizon, population and metric."""
    document = json.loads(content)
    return {
        (document["slice"], line["horizon"], line["population"], metric): line["metrics"][metric]
        for line in document["lines"]
        for metric in MEASURED
    }


def _estimate(found: Mapping[str, Any]) -> tuple[float, float, float]:
    return float(found["value"]), float(found["low"]), float(found["high"])
