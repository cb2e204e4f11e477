"""Two bundles' own numbers side by side, for whoever is about to promote one. Pure.

A bundle may carry `metrics.json`. One that continues another carries the paired differences from it, on the newest
labels (`intent train --from`): it is worse where such a difference lies wholly below 0. Otherwise the file is what
`intent evaluate` says of it: of two that were measured on the same instants, one is worse where its interval lies
wholly below the other's. What may be chance holds nothing up. Other weeks have other buyers: a slice of the same name
from other data, told by its instants and visitors, is not compared.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from worker import terminal
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
    difference: tuple[float, float, float] | None = None
    """Paired; then `before` and `after` have no intervals of their own (all three are the value)."""

    @property
    def worse(self) -> bool:
        """Beyond the interval of the difference, or else beyond both intervals; NaN is worse than any number."""
        if math.isnan(self.before[0]):  # as where nobody bought: there is nothing to be worse than
            return False
        return not (self.after[2] >= self.before[1] if self.difference is None else self.difference[2] >= 0)


def compare(before: tuple[str, Mapping[str, bytes]], after: tuple[str, Mapping[str, bytes]]) -> list[Row]:
    """Rows for all that both were measured on; none where one carries no numbers, or of other instants.

    Takes the bundles' versions and files, as `bundle.verify` gives them. Raises `SettingError` for numbers that cannot
    be read.
    """
    (former, before_files), (_, after_files) = before, after
    if FILE not in after_files:
        return []
    try:
        carried = json.loads(after_files[FILE])
        if carried.get("against") == former:
            return paired(carried)
        if FILE not in before_files or "against" in carried or "against" in json.loads(before_files[FILE]):
            return []  # paired with something else
        old, new = (_lines(files[FILE]) for files in (before_files, after_files))
        return [
            Row(
                horizon=str(key[1]),
                population=str(key[2]),
                metric=key[3],
                before=_estimate(old[key]),
                after=_estimate(new[key]),
            )
            for key in new
            if key in old
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SettingError(f"{FILE} of a bundle is not what `intent` writes: {error!r}") from None


def paired(document: Mapping[str, Any]) -> list[Row]:
    """Rows of `training.succession.document`: two bundles measured on the same instants."""
    return [
        Row(
            horizon=str(line["horizon"]),
            population=str(line["population"]),
            metric=metric,
            before=(float(line["before"][metric]),) * 3,
            after=(float(line["after"][metric]),) * 3,
            difference=_estimate(line["differences"][metric]),
        )
        for line in document["lines"]
        for metric in MEASURED
    ]


def comparison(rows: Sequence[Row], *, before: str, after: str) -> Table:
    """At least one row, for a terminal; the versions head the columns."""
    paired = rows[0].difference is not None
    title = "on the same instants; differences with 95 % intervals by visitor" if paired else "by their own numbers"
    table = terminal.table(title)
    for heading in (
        "horizon",
        "population",
        "metric",
        f"{before}\nnow",
        after,
        *(["difference"] if paired else []),
        "",
    ):
        table.add_column(heading, no_wrap=heading not in {"population", "difference"})
    for row in rows:
        shown = [
            f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if not paired else "")
            for value, low, high in (row.before, row.after)
        ]
        if row.difference is not None:
            shown.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*row.difference))
        table.add_row(escape(row.horizon), escape(row.population), row.metric, *shown, "worse" if row.worse else "")
    return table


def _lines(content: bytes) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """By slice, horizon, population and metric, and by how many instants of how many visitors it was measured on."""
    document = json.loads(content)
    return {
        (
            document["slice"],
            line["horizon"],
            line["population"],
            metric,
            line.get("instants"),
            line.get("visitors"),
        ): line["metrics"][metric]
        for line in document["lines"]
        for metric in MEASURED
    }


def _estimate(found: Mapping[str, Any]) -> tuple[float, float, float]:
    return float(found["value"]), float(found["low"]), float(found["high"])
