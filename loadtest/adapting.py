"""`python -m loadtest peft`: few trained parameters against all of them, from one bundle, on the same newer labels.

Owns the contenders and the slices: a base that knows August adapts to what became known until the validation slice
begins, and is measured on that slice. The methods are in `worker.training.adapt`.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from loadtest import taken
from loadtest.conclude import conclude
from loadtest.options import Json, RealSample, chosen, out
from worker.shop.ga360 import parse_time
from worker.terminal import err
from worker.training.metrics import Estimate

BASE_UNTIL: Final = "2016-09-01"
DRAWN: Final = 4
"""One visitor of the validation slice in so many is measured."""

HORIZONS: Final = ("30 min", "24 h")
"""The visitors that validate 7 days may teach the shorter horizons here."""

ALL: Final = "all parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """What learns: a method's parameters (`None`: all), with or without the fusion head."""

    label: str
    method: str | None
    head: bool = True


def contenders() -> list[Contender]:
    """All methods, each with the head and without."""
    from worker.training.adapt import METHODS

    adapters = [name for name in METHODS if name != "head"]
    return [
        Contender(label=ALL, method=None),
        Contender(label="head alone", method="head"),
        *(Contender(label=f"{name} + head", method=name) for name in adapters),
        *(Contender(label=name, method=name, head=False) for name in adapters),
    ]


def peft(
    *,
    windows: Annotated[int, typer.Option(min=1024, help="That each contender learns from.")] = 10_240,
    rate: Annotated[float, typer.Option(min=0.01, max=100, help="Multiplies every learning rate.")] = 1.0,
    only: Annotated[list[str] | None, typer.Option(help="A contender's label; once for each. Default: all.")] = None,
    draws: Annotated[int, typer.Option(min=10, help="Resamples of the visitors for the intervals.")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    sample: RealSample = None,
    runs: Annotated[Path, typer.Option(help="Where `intent train` keeps the folded windows.")] = Path("runs"),
    folder: Annotated[Path, out("peft.json, and for the base")] = Path("runs/peft"),
    as_json: Json = False,
) -> None:
    """Compare ways to fine-tune few parameters with full fine-tuning: size, time, AUC and AP on later labels.

    The base knows what was known on August 31; it is trained once and kept. Each contender continues it on labels that
    became known until September 24, half of each step replayed from before, and is measured on the validation slice.
    """
    import torch

    from loadtest import origins
    from worker.training import continual, labels, loop
    from worker.training.adapt import METHODS

    load = taken.load_before(err)
    names = chosen("--only", only, [one.label for one in contenders()])
    taking_part = [one for one in contenders() if one.label in names]
    torch.set_num_threads(1)
    with err.status("folding the events into windows") as status:
        events, kept = origins.read(sample, runs)
        since, common = parse_time(BASE_UNTIL), origins.plan(seed)

        def report(step: Any) -> None:
            status.update(f"the base: {step.windows:,} of {step.of_windows:,} windows")

        began = origins.base(events, kept, until_ms=since, common=common, folder=folder, report=report)
        member = labels.member(events, "validation")
        member[:, len(HORIZONS) :] = False
        judges = origins.Judges(events, kept, member, one_in=DRAWN)
        change = continual.Update(
            since_ms=since, until_ms=labels.VALIDATION, windows=windows, checks=2, watched_windows=4_000
        )
        scored = {"none": judges.probabilities(began.model, began.vocabulary)}
        lines: list[dict[str, Any]] = [{"label": "none", "parameters": 0, "cpu_s": 0.0, "serves": True}]
        for one in taking_part:
            status.update(one.label)
            usual = continual.FULL_RATE if one.method is None else METHODS[one.method].learning_rate
            update = replace(change, method=one.method, head=one.head, learning_rate=usual * rate)
            before = time.process_time()
            fitted = continual.fit(began.model, began.vocabulary, events, kept, update, common, report=lambda _: None)
            spent = time.process_time() - before  # without the measuring, which is no part of learning
            scored[one.label] = judges.probabilities(fitted.model, began.vocabulary)
            best = loop.best(fitted.history)
            lines.append(
                {
                    "label": one.label,
                    "parameters": fitted.trained_parameters,
                    "cpu_s": round(spent, 1),
                    "serves": one.method is None or METHODS[one.method].merges,
                    "windows_at_best": best["windows"],
                    "old_log_loss": [fitted.history[0]["old"], best["old"]],
                }
            )
            err.print(f"{one.label}: {lines[-1]['cpu_s']:.0f} CPU s", highlight=False)
        status.update("intervals")
        for line in lines:
            p = scored[line["label"]]
            line["numbers"] = judges.numbers(p)
            for other in ("none", ALL):
                if other in scored and line["label"] != other:
                    line[f"against {other}"] = judges.against(scored[other], p, draws=draws)
    document = {
        "taken": taken.provenance(load_before=load, packages=("numpy", "torch", "transformers", "peft")),
        "windows": windows,
        "rate": rate,
        "instants": {name: int(judges.member[:, at].sum()) for at, name in enumerate(HORIZONS)},
        "parameters": sum(parameter.numel() for parameter in began.model.parameters()),
        "lines": lines,
    }
    conclude(document, folder, "peft", lambda: [_table(document)], as_json=as_json)


def _table(document: dict[str, Any]) -> Table:
    share = document["parameters"]
    table = Table(
        title=f"{document['windows']:,} windows each, {document['instants']['24 h']:,} validation instants at 24 h",
        title_justify="left",
    )
    table.add_column("learns")
    for name in ("parameters", "of all", "CPU s", "served", "30 min AUC/AP", "24 h AUC/AP", "24 h AP against all"):
        table.add_column(name, justify="right")
    for line in document["lines"]:
        numbers = [f"{found['auc']:.4f}/{found['ap']:.4f}" for found in line["numbers"].values()]
        found = line.get(f"against {ALL}", {}).get("24 h", {}).get("ap")
        difference = "" if found is None else Estimate(**found).signed()
        table.add_row(
            line["label"],
            f"{line['parameters']:,}",
            f"{line['parameters'] / share:.1%}",
            f"{line['cpu_s']:.0f}",
            "yes" if line["serves"] else "no",
            *numbers,
            difference,
        )
    return table
