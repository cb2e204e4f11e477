"""`python -m loadtest continual`: a weekly refit against none, week by week as it would have gone (rolling origin).

Owns the dates and the arms. Each refit sees only labels known by its date and is measured on the week after it; all
dates lie before the test slice. What is forgotten of August is measured on visitors who taught nothing of it. What an
update does is in `worker.training.continual`.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer
from rich.table import Table

from loadtest import taken
from loadtest.conclude import conclude
from loadtest.options import Json, RealSample, chosen, out
from worker.shop.ga360 import parse_time
from worker.terminal import err
from worker.training.metrics import Estimate

if TYPE_CHECKING:
    from worker.scoring.model import IntentModel

BASE_UNTIL: Final = "2016-09-01"
REFITS: Final = ("2016-09-07", "2016-09-14", "2016-09-21")
WEEK_MS: Final = 7 * 86_400_000
DRAWN: Final = 4
"""One visitor in so many is measured."""

NONE: Final = "no refit"
WEEKLY: Final = "weekly refit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A way to go on: what differs from the update's defaults."""

    label: str
    change: dict[str, Any] = field(default_factory=dict)


ARMS: Final = (
    Arm(label=WEEKLY),
    Arm(label="without replay", change={"replay": 0.0, "bound": float("inf")}),
    Arm(label="anchored", change={"anchor": 1.0}),
    Arm(label="distilled", change={"distil": 0.5}),
    Arm(label="LoRA", change={"method": "lora"}),
)
"""The refit as `intent train --from` does it, half replay and a bound; without either; with a guard more; of few of the
BERT's parameters, and the head.
"""


def continual(
    *,
    windows: Annotated[int, typer.Option(min=1024, help="That each refit learns from.")] = 10_240,
    only: Annotated[list[str] | None, typer.Option(help="An arm's label; once for each. Default: all.")] = None,
    draws: Annotated[int, typer.Option(min=10, help="Resamples of the visitors for the intervals.")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    sample: RealSample = None,
    runs: Annotated[Path, typer.Option(help="Where `intent train` keeps the folded windows.")] = Path("runs"),
    folder: Annotated[Path, out("continual.json and .png, and the base")] = Path("runs/continual"),
    as_json: Json = False,
) -> None:
    """Measure what a weekly refit gains over none, and what it forgets, with guards against forgetting beside it.

    The base knows what was known on August 31. Refits on September 7, 14 and 21 each continue the one before on labels
    that became known since; each is measured on the week that follows, beside the base as it was.
    """
    import torch

    from loadtest import origins
    from worker.training import continual as updates
    from worker.training.labels import HORIZONS_MS, TEST

    load = taken.load_before(err)
    names = chosen("--only", only, [arm.label for arm in ARMS])
    arms = [arm for arm in ARMS if arm.label in names]
    torch.set_num_threads(1)
    dates = [parse_time(date) for date in (BASE_UNTIL, *REFITS)]
    with err.status("folding the events into windows") as status:
        events, kept = origins.read(sample, runs)
        common = origins.plan(seed)

        def report(step: Any) -> None:
            status.update(f"the base: {step.windows:,} of {step.of_windows:,} windows")

        began = origins.base(events, kept, until_ms=dates[0], common=common, folder=folder, report=report)
        ends = events.time_ms[:, None] + np.array(HORIZONS_MS)
        weeks = []
        for date in dates[1:]:
            inside = (events.time_ms >= date) & (events.time_ms < date + WEEK_MS) & events.instant
            weeks.append(origins.Judges(events, kept, inside[:, None] & (ends <= TEST), one_in=DRAWN))
        old = origins.bystanders(events, kept, until_ms=dates[0], one_in=DRAWN)

        def measured(models: "list[IntentModel]", label: str) -> tuple[list[np.ndarray], np.ndarray]:
            status.update(f"{label}: measuring")
            after = [judges.probabilities(model, began.vocabulary) for judges, model in zip(weeks, models, strict=True)]
            return after, old.probabilities(models[-1], began.vocabulary)

        scored = {NONE: measured([began.model] * len(weeks), NONE)}
        spent: dict[str, list[float]] = {}
        for arm in arms:
            models: list[IntentModel] = []
            model = began.model
            for since, until in pairwise(dates):
                status.update(f"{arm.label}: refit {len(models) + 1} of {len(weeks)}")
                change = updates.Update(
                    since_ms=since, until_ms=until, windows=windows, checks=4, watched_windows=6_000, **arm.change
                )
                before = time.process_time()
                model = updates.fit(model, began.vocabulary, events, kept, change, common, report=lambda _: None).model
                spent.setdefault(arm.label, []).append(round(time.process_time() - before, 1))
                models.append(model)
            scored[arm.label] = measured(models, arm.label)
            err.print(f"{arm.label}: {sum(spent[arm.label]):.0f} CPU s", highlight=False)
        status.update("intervals")
        whole = origins.joined(weeks)
        lines = []
        for label, (after, before_all) in scored.items():
            line: dict[str, Any] = {
                "label": label,
                "cpu_s": spent.get(label),
                "weeks": [judges.numbers(p) for judges, p in zip(weeks, after, strict=True)],
                "all": whole.numbers(np.concatenate(after)),
                "old": old.numbers(before_all),
            }
            if label != NONE:
                none, none_old = scored[NONE]
                line["weeks_against"] = [
                    judges.against(one, other, draws=draws)
                    for judges, one, other in zip(weeks, none, after, strict=True)
                ]
                line["all_against"] = whole.against(np.concatenate(none), np.concatenate(after), draws=draws)
                line["old_against"] = old.against(none_old, before_all, draws=draws)
            lines.append(line)
    document = {
        "taken": taken.provenance(load_before=load, packages=("numpy", "torch", "transformers")),
        "windows": windows,
        "refits": list(REFITS),
        "instants": [int(judges.member[:, 1].sum()) for judges in weeks],
        "lines": lines,
    }
    plot = partial(_plot, document)
    conclude(document, folder, "continual", lambda: [_table(document)], as_json=as_json, plot=plot)


def _table(document: dict[str, Any]) -> Table:
    table = Table(
        title="AP in the week after each refit; differences from no refit, 95 % by visitor", title_justify="left"
    )
    table.add_column("arm")
    for date in document["refits"]:
        table.add_column(f"24 h, {date[5:]}", justify="right")
    for name in ("30 min, all weeks", "24 h, all weeks", "7 d, all weeks", "log loss of August", "CPU s a refit"):
        table.add_column(name, justify="right")
    for line in document["lines"]:
        cells = [f"{week['24 h']['ap']:.3f}" for week in line["weeks"]]
        if "all_against" in line:
            cells += [Estimate(**line["all_against"][horizon]["ap"]).signed() for horizon in ("30 min", "24 h", "7 d")]
            cells += [
                Estimate(**line["old_against"]["24 h"]["log_loss"]).signed(digits=4),
                f"{np.mean(line['cpu_s']):.0f}",
            ]
        else:
            cells += [f"{line['all'][horizon]['ap']:.3f}" for horizon in ("30 min", "24 h", "7 d")]
            cells += [f"{line['old']['24 h']['log_loss']:.4f}", ""]
        table.add_row(line["label"], *cells)
    return table


def _plot(document: dict[str, Any], path: Path) -> None:
    """Left: AP at 24 h by week. Right: the gain over no refit, all weeks together, by horizon."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    weeks = [f"week after {date[5:]}" for date in document["refits"]]
    for line in document["lines"]:
        values = [week["24 h"]["ap"] for week in line["weeks"]]
        left.plot(weeks, values, marker="o", label=line["label"], color="0.5" if line["label"] == NONE else None)
    left.set_ylabel("AP at 24 h")
    left.legend(fontsize=8)
    arms = [line for line in document["lines"] if "all_against" in line]
    for number, line in enumerate(arms):
        for at, horizon in enumerate(("30 min", "24 h", "7 d")):
            found = line["all_against"][horizon]["ap"]
            place = at + (number - (len(arms) - 1) / 2) * 0.12
            reach = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
            right.errorbar(
                place,
                found["value"],
                yerr=reach,
                fmt="o",
                capsize=3,
                color=f"C{number}",
                label=line["label"] if at == 0 else None,
            )
    right.axhline(0, color="0.5", linewidth=0.8)
    right.set_xticks(range(3), ["30 min", "24 h", "7 d"])
    right.set_ylabel("AP gained over no refit, 95 % by visitor")
    figure.suptitle("Weekly refit, measured on the week after it")
    figure.savefig(path, dpi=120)
    plt.close(figure)
