"""One run, from the sample to a bundle: windows, fine-tuning, calibration, reason codes, evaluation, card.

Owns the order. The checkpoint is chosen on one part of the validation slice, the calibration fitted on the other. A
refit then repeats the chosen run on all that ends before the test slice, but for visitors held out to calibrate it. The
test slice is scored once, at the very end, or not at all.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from worker import __version__
from worker.errors import IntentError
from worker.scoring import bundle
from worker.scoring.bundle import Bundle
from worker.shop.source import Source, opened
from worker.training import card, curves, evaluate, finetune, finish, habits, loop, windows
from worker.training.labels import NAMES, Bools, Events, labels, member, require, untested
from worker.training.loop import Progress
from worker.training.recipe import Recipe
from worker.training.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it; `test` is empty where the slice was left alone."""

    folder: Path
    bundle: Path
    version: str
    validation: list[evaluate.Line]
    test: list[evaluate.Line]


def train(
    data: Path,
    out: Path,
    *,
    name: str,
    plan: finetune.Plan,
    runs: Path,
    draws: int,
    command: str,
    say: Callable[[str], None],
    report: Callable[[Progress], None],
    resume: Path | None = None,
    test: bool = True,
    mapping: Path | None = None,
    notes: str = "",
) -> Outcome:
    """Trains and writes a bundle to `out`. `say` hears of each stage, `report` of each step.

    `data` is the GA360 sample's folder or, with a `mapping`, a table of any shop's events. `runs` receives the run's
    folder, and keeps the windows for the next run. `resume` is the folder of a run of the same plan that was
    interrupted. Without `test`, the test slice is not read. `notes` is Markdown for the end of the card. Raises
    `IntentError` when the data cannot be used.
    """
    started = time.monotonic()
    source = opened(data, mapping)
    if resume is None:
        run = Run.begin(runs, name, plan=asdict(plan), data=source.files, command=command)
    else:
        run = Run.resume(resume, plan=asdict(plan), data=source.files)

    def step(progress: Progress) -> None:
        run.add(progress)
        report(progress)

    say(f"folding the events of {data} into windows")
    events, kept = windows.build(source, runs / "cache", say=say)
    used = ("train", "validation", "choice", "calibration", *(("refit", "refit calibration") if plan.refit else ()))
    inside = {which: member(events, which) for which in used}
    require_outcomes(source, events, inside)
    _require_choice(source, events, inside["choice"])
    if test and (short := untested(events.splits)):
        say(short)
    say(f"fine-tuning on {plan.windows:,} windows")
    trained = finetune.finetune(events, kept, plan, report=step, keep=run.checkpoints, say=say)
    curves.plot(run.history()).savefig(run.folder / "curves.png", dpi=120)
    seen = int(trained.history[-1]["windows"])
    best = loop.best(trained.history)
    say("calibrating")
    made = _calibrated(name, plan, trained, events, kept, "calibration")
    say("measuring on the validation slice")
    lines = {"validation": evaluate.evaluate(made, events, kept, which="validation", draws=draws, device=plan.device)}
    if plan.refit:
        say(f"the same again, {int(best['windows']):,} windows, on all that ends before the test slice")
        trained = finetune.finetune(
            events, kept, plan, report=step, refit=int(best["windows"]), keep=run.checkpoints, say=say
        )
        made = _calibrated(name, plan, trained, events, kept, "refit calibration")
    say("learning habits, weighing reason codes, counting what is usual")
    made = finish.completed(
        replace(made, refitted=plan.refit, habits=habits.fit(events, kept, seed=plan.seed)),
        events,
        kept,
        taught=np.flatnonzero(inside["train"][:, 1]),
        since_ms=events.splits.validation,
        until_ms=events.splits.test,
        about="validation slice",
        seed=plan.seed,
        device=plan.device,
    )
    spent = time.monotonic() - started
    lines["test"] = []
    if test:
        say("measuring on the test slice")
        lines["test"] = evaluate.evaluate(made, events, kept, which="test", draws=draws, device=plan.device)
    text = card.write(
        name=name,
        data=source.about,
        command=run.command,
        plan=plan,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        train=int(inside["refit" if plan.refit else "train"].any(axis=1).sum()),
        seen=seen,
        best=int(best["windows"]),
        seconds=spent,
        threads=torch.get_num_threads(),
        software={"intent-worker": __version__} | {package: version(package) for package in ("torch", "transformers")},
        surrogate=made.surrogate,
        test=lines["test"],
        validation=lines["validation"],
    )
    if notes:
        text = f"{text}\n{notes}"
    which = "test" if test else "validation"
    measured = "validation, before the refit" if plan.refit and not test else which
    numbers = {"slice": measured, "draws": draws, "lines": evaluate.document(lines[which])}
    until_ms = events.splits.test if plan.refit else events.splits.validation
    recipe = Recipe.by(source, plan, windows=int(best["windows"]), until_ms=until_ms)
    label = bundle.save(out, replace(made, card=text, metrics=numbers, recipe=recipe.document()))
    run.write("report.json", {which: evaluate.document(found) for which, found in lines.items()})
    return Outcome(folder=run.folder, bundle=out, version=label, validation=lines["validation"], test=lines["test"])


def require_outcomes(source: Source, events: Events, inside: Mapping[str, Bools]) -> None:
    """Raises `IntentError` where a slice of `inside` lacks instants for a horizon, or one that teaches an outcome."""
    y = labels(events)
    for which, rows in inside.items():
        require(
            rows,
            which,
            of=source.name,
            why="`intent train` needs the whole sample, Aug 1 to Oct 15, or a table of five weeks and more, with "
            "dozens of visitors in each",
        )
    for which in [name for name in ("train", "refit") if name in inside]:
        for at, horizon in enumerate(NAMES):
            bought = y[inside[which][:, at], at]
            if bought.all() or not bought.any():
                raise IntentError(
                    f"of {len(bought):,} {which} instants of {source.name} {int(bought.sum()):,} have a purchase "
                    f"within {horizon}, where both outcomes are needed; is the shop's order mapped to purchase in "
                    "the mapping's [types]?"
                )


def _require_choice(source: Source, events: Events, choice: Bools) -> None:
    y = labels(events)
    chosen_by = [y[rows, at] for at, rows in enumerate(choice.T)]
    if not any(bought.any() and not bought.all() for bought in chosen_by):
        count = int(choice.any(axis=1).sum())
        raise IntentError(
            f"the {count:,} instants of {source.name} that choose a checkpoint, just before the test slice, have one "
            "outcome only within each horizon, so all checkpoints would be alike; take more visitors, or other days in "
            "the mapping's [splits]"
        )


def _calibrated(
    name: str, plan: finetune.Plan, trained: finetune.Trained, events: Events, kept: windows.Windows, which: str
) -> Bundle:
    """As much of a bundle as can be measured, calibrated on that slice."""
    made = finish.bare(name, plan.shape, trained.vocabulary, trained.model)
    return finish.calibrated(made, events, kept, member(events, which), device=plan.device)
