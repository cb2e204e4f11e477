"""What the bundle is to reach beside the trees, and whether it does. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker.evaluation.compare import BUNDLE, Comparison
from worker.evaluation.slices import EVERY
from worker.training.labels import NAMES
from worker.training.metrics import Estimate

MARGIN: Final = {"ap": 0.02, "auc": 0.003}
"""At 24 h the bundle's lead over the trees: at least so much, its interval above zero."""

MOST_ECE: Final = 0.02
"""Of every horizon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One demand and what was found."""

    what: str
    horizon: str
    wanted: str
    found: Estimate
    met: bool


def targets(comparisons: Sequence[Comparison], *, rival: str) -> list[Target]:
    """The demands at every instant, in the order of horizons; those on a lead only where the rival was measured."""
    whole = {one.horizon: one for one in comparisons if one.by == EVERY}
    found = []
    for horizon in (name for name in NAMES if name in whole):
        one = whole[horizon]
        for metric, margin in MARGIN.items() if rival in one.differences else ():
            lead = one.differences[rival][metric]
            if horizon == "24 h":
                wanted, met = f"at least +{margin}, interval above 0", lead.value >= margin and lead.low > 0
            else:
                wanted, met = "no worse: interval not below 0", lead.high >= 0
            what = f"{metric.upper()}, bundle minus {rival}"
            found.append(Target(what=what, horizon=horizon, wanted=wanted, found=lead, met=met))
        ece = one.scorers[BUNDLE]["ece"]
        found.append(
            Target(what="ECE", horizon=horizon, wanted=f"at most {MOST_ECE}", found=ece, met=ece.value <= MOST_ECE)
        )
    return found
