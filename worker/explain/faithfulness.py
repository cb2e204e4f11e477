"""Whether an explanation tells what the model does: deletion curves, and whether methods agree (DeYoung et al. 2020).

Events are taken out of a window one after the other, in a method's order, and the window is scored each time. Where the
order is right, the logit falls early when the most supporting events go first, and rises early when the most opposing
ones do. The area between the two curves is a method's faithfulness, in logits; a random order has none. Occlusion takes
its events out in the same way, so that it is judged by its own rule: the other methods are not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from worker.explain.occlusion import occlusion
from worker.explain.parts import Doubles, only, without_each
from worker.explain.scorer import Scorer
from worker.scoring import reasons
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.training.metrics import Estimate
from worker.training.ranks import rank_correlation

METHODS: Final = ("occlusion", "integrated gradients", "reason codes", "random")
"""Reason codes: an event is worth what the surrogate's logit loses without it."""

PAIRS: Final = (
    ("occlusion", "integrated gradients"),
    ("occlusion", "reason codes"),
    ("integrated gradients", "reason codes"),
    ("occlusion", "random"),
)

STAGES: Final = 17
"""At most so many points a curve; between them it is taken for straight."""

SHARES: Final = np.linspace(0, 1, 21)
"""Of a window's events but one: where curves are kept, for a plot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Of one method, [windows] each but for the last two."""

    falls: Doubles  # area of the logit's fall while the most supporting events go first
    rises: Doubles  # area of its rise while the most opposing go first
    falling: Doubles  # [len(SHARES)] mean logit, less the whole window's
    rising: Doubles  # [len(SHARES)]

    @property
    def area(self) -> Doubles:
        """[windows] between the curves."""
        return self.falls + self.rises


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What was found on how many windows, one a user."""

    windows: int
    curves: dict[str, Curves]
    agreement: dict[tuple[str, str], Doubles]  # [windows] rank correlation of the events' contributions


def study(
    bundle: Bundle,
    windows: Sequence[bytes],
    *,
    horizon: int,
    seed: int = 0,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _: None,
) -> Study:
    """Of at least two windows of at least three events each. About 0.3 s a window on one core."""
    from worker.explain.gradients import integrated_gradients  # with captum, which a picture does without

    scorer = Scorer(bundle, device=device)
    bundle.model.to(device)
    rng = np.random.default_rng(seed)
    report("occlusion")
    found: dict[str, list[Doubles]] = {
        "occlusion": [one.events for one in occlusion(scorer, windows, horizon=horizon)],
        "reason codes": [surrogate_falls(bundle, one) for one in windows],
        "random": [rng.random(one[2]) for one in windows],
    }
    report("integrated gradients")
    found["integrated gradients"] = [
        one.attribution.events for one in integrated_gradients(bundle, windows, horizon=horizon)
    ]
    curves = {}
    for method in METHODS:
        report(f"deletion by {method}")
        curves[method] = deletion(scorer, windows, found[method], horizon=horizon)
    agreement = {
        pair: np.array([rank_correlation(a, b) for a, b in zip(*(found[method] for method in pair), strict=True)])
        for pair in PAIRS
    }
    return Study(windows=len(windows), curves=curves, agreement=agreement)


def deletion(scorer: Scorer, windows: Sequence[bytes], values: Sequence[Doubles], *, horizon: int) -> Curves:
    """The curves of [n] values for each window's events. The last event of an order stays: no window is empty."""
    lacking: list[bytes] = []
    cuts: list[NDArray[np.int64]] = []  # for each curve, how many events are gone at each of its points
    for encoded, value in zip(windows, values, strict=True):
        for signed in (-value, value):
            order = np.argsort(signed, kind="stable")
            cuts.append(np.unique(np.round(np.linspace(0, len(order) - 1, STAGES)).astype(np.int64)))
            lacking += [only(encoded, np.sort(order[gone:]).tolist()) for gone in cuts[-1]]
    logits = scorer.logits(lacking)[:, horizon]
    pieces = np.split(logits, np.cumsum([len(gone) for gone in cuts])[:-1])
    moves = [piece - piece[0] for piece in pieces]
    shares = [gone / gone[-1] for gone in cuts]
    areas = np.array([np.trapezoid(move, share) for move, share in zip(moves, shares, strict=True)])
    spread = np.array([np.interp(SHARES, share, move) for move, share in zip(moves, shares, strict=True)])
    return Curves(
        falls=-areas[::2], rises=areas[1::2], falling=spread[::2].mean(axis=0), rising=spread[1::2].mean(axis=0)
    )


def surrogate_falls(bundle: Bundle, encoded: bytes) -> Doubles:
    """[n] what the reason codes' linear surrogate loses without each event of a window of at least two."""
    held = reasons.facts(Batch.of([encoded, *without_each(encoded)]))
    logits = held @ bundle.surrogate.weights.astype(np.float64)
    return np.asarray(logits[0] - logits[1:])


def estimate(values: Doubles, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """The mean with its 95 % bootstrap interval; windows are of different users, so they are drawn one by one."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def document(found: Study) -> dict[str, Any]:
    """For programs; plain JSON values."""

    def values(one: Estimate) -> dict[str, float]:
        return {"value": round(one.value, 4), "low": round(one.low, 4), "high": round(one.high, 4)}

    return {
        "windows": found.windows,
        "deletion": {
            method: {
                **{name: values(estimate(getattr(curves, name))) for name in ("falls", "rises", "area")},
                "less_random": values(estimate(curves.area - found.curves["random"].area)),
                "falling": curves.falling.round(4).tolist(),
                "rising": curves.rising.round(4).tolist(),
            }
            for method, curves in found.curves.items()
        },
        "agreement": [{"between": list(pair), **values(estimate(rho))} for pair, rho in found.agreement.items()],
    }


def tables(found: Study) -> tuple[Table, Table]:
    """For people: deletion, and agreement."""
    areas = Table(title=f"Deletion of events, {found.windows} windows of as many users", title_justify="left")
    areas.add_column("order of")
    for name in ("logit falls by", "rises by", "area between", "more than random"):
        areas.add_column(name, justify="right")
    for method, curves in found.curves.items():
        less = "" if method == "random" else interval(estimate(curves.area - found.curves["random"].area))
        areas.add_row(method, *(interval(estimate(part)) for part in (curves.falls, curves.rises, curves.area)), less)
    areas.caption = "the logit's change, averaged over the deletion of a window's events but one; 95 % intervals"
    areas.caption_justify = "left"
    ranks = Table(title="Rank correlation of the events' contributions", title_justify="left")
    for name in ("between", "and"):
        ranks.add_column(name)
    ranks.add_column("Spearman", justify="right")
    for pair, rho in found.agreement.items():
        ranks.add_row(*pair, interval(estimate(rho)))
    return areas, ranks


def interval(one: Estimate) -> str:
    """``0.42 (0.38–0.47)``."""
    return f"{one.value:z.2f} ({one.low:z.2f}–{one.high:z.2f})"
