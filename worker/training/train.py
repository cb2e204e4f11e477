"""One run, from the sample to a bundle: windows, fine-tuning, calibration, reason codes, evaluation, card.

Owns the order. The checkpoint is chosen on one part of the validation slice, the calibration fitted on the other. A
refit then repeats the chosen run on all that ends before the test slice, but for visitors held out to calibrate it. The
test slice is scored once, at the very end, or not at all.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from worker import __version__
from worker.drift.learn import learn
from worker.errors import IntentError
from worker.explain import codes
from worker.scoring import bundle, reasons
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.percentile import Percentiles
from worker.shop.source import opened
from worker.training import calibrate, card, curves, evaluate, finetune, habits, windows
from worker.training.labels import Events, labels, member
from worker.training.loop import Progress
from worker.training.runs import Run

SURROGATE_WINDOWS = 40_000
WORTH_WINDOWS = 5_000


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
) -> Outcome:
    """Trains and writes a bundle to `out`. `say` hears of each stage, `report` of each step.

    `data` is the GA360 sample's folder or, with a `mapping`, a table of any shop's events. `runs` receives the run's
    folder, and keeps the windows for the next run. `resume` is the folder of a run of the same plan that was
    interrupted. Without `test`, the test slice is not read. Raises `IntentError` when the data cannot be used.
    """
    started = time.monotonic()
    if resume is None:
        run = Run.begin(runs, name, plan=asdict(plan), data=data, command=command)
    else:
        run = Run.resume(resume, plan=asdict(plan), data=data)

    def step(progress: Progress) -> None:
        run.add(progress)
        report(progress)

    say(f"folding the events of {data} into windows")
    source = opened(data, mapping)
    events, kept = windows.build(source, runs / "cache", say=say)
    inside = {
        which: member(events, which)
        for which in ("train", "validation", *(("refit", "refit calibration") if plan.refit else ()))
    }
    for which, rows in inside.items():
        if not rows.any(axis=0).all():
            raise IntentError(
                f"{data} has no {which} instants for every horizon; `intent train` needs the whole sample, Aug 1 to "
                "Oct 15, or a table of five weeks and more"
            )
    say(f"fine-tuning on {plan.windows:,} windows")
    trained = finetune.finetune(events, kept, plan, report=step, keep=run.checkpoints)
    curves.plot(run.history()).savefig(run.folder / "curves.png", dpi=120)
    seen = int(trained.history[-1]["windows"])
    best = max(trained.history, key=lambda entry: entry["score"])
    say("calibrating")
    made = _bundle(name, plan, trained, events, kept, calibrated_on="calibration")
    say("measuring on the validation slice")
    lines = {"validation": evaluate.evaluate(made, events, kept, which="validation", draws=draws, device=plan.device)}
    if plan.refit:
        say(f"the same again, {int(best['windows']):,} windows, on all that ends before the test slice")
        trained = finetune.finetune(events, kept, plan, report=step, refit=int(best["windows"]), keep=run.checkpoints)
        made = _bundle(name, plan, trained, events, kept, calibrated_on="refit calibration")
    recent = np.flatnonzero((events.time_ms >= events.splits.validation) & (events.time_ms < events.splits.test))
    reference = learn(made, kept, recent, events.visitor[recent], about="validation slice", device=plan.device)
    made = replace(made, drift=reference)
    spent = time.monotonic() - started
    lines["test"] = []
    if test:
        say("measuring on the test slice")
        lines["test"] = evaluate.evaluate(made, events, kept, which="test", draws=draws, device=plan.device)
    text = card.write(
        name=name,
        data=source.about,
        command=command,
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
    which = "test" if test else "validation"
    numbers = {"slice": which, "draws": draws, "lines": evaluate.document(lines[which])}
    label = bundle.save(out, replace(made, card=text, metrics=numbers))
    run.write("report.json", {which: evaluate.document(found) for which, found in lines.items()})
    return Outcome(folder=run.folder, bundle=out, version=label, validation=lines["validation"], test=lines["test"])


def _bundle(
    name: str,
    plan: finetune.Plan,
    trained: finetune.Trained,
    events: Events,
    kept: windows.Windows,
    *,
    calibrated_on: str,
) -> Bundle:
    """Calibrated on that slice, with the reason codes' weights; its version and its card are still to come."""
    inside = member(events, calibrated_on)
    places = np.flatnonzero(inside.any(axis=1))
    logits = finetune.predict(trained.model, trained.vocabulary, kept, places, device=plan.device)
    calibration = calibrate.fit(logits, labels(events)[places], inside[places])
    in_train = np.flatnonzero(member(events, "train")[:, 1])
    drawn = np.random.default_rng(plan.seed).permutation(in_train)[:SURROGATE_WINDOWS]
    day = finetune.predict(trained.model, trained.vocabulary, kept, drawn, device=plan.device)[:, 1].astype(np.float64)
    day = day * calibration.slopes[1] + calibration.intercepts[1]
    made = Bundle(
        name=name,
        version="",  # known once the files are written
        shape=plan.shape,
        vocabulary=trained.vocabulary,
        model=trained.model,
        calibration=calibration,
        surrogate=reasons.fit(reasons.facts(Batch.of(kept.take(drawn))), day),
        card="",
        habits=habits.fit(events, kept, seed=plan.seed),
        percentiles=Percentiles.fit(calibration.probabilities(logits), inside[places]),
    )
    return replace(made, surrogate=codes.weighed(made, kept.take(drawn[:WORTH_WINDOWS]), horizon=1))
