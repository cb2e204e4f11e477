"""One run, from the sample to a bundle: windows, fine-tuning, calibration, reason codes, evaluation, card.

Owns the order and the run's folder. The test slice is scored once, after everything has been chosen on validation.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from worker import __version__
from worker.errors import IntentError
from worker.explain import codes
from worker.scoring import bundle, reasons
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.shop.ga360 import Sample
from worker.training import calibrate, card, evaluate, finetune, habits, windows
from worker.training.labels import labels, member

SURROGATE_WINDOWS = 40_000
WORTH_WINDOWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of it."""

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
    report: Callable[[finetune.Progress], None],
) -> Run:
    """Trains and writes a bundle to `out`. `say` hears of each stage, `report` of each step.

    `runs` receives a folder with the plan, the history and the evaluation, and keeps the windows for the next run.
    Raises `IntentError` when the data cannot be used.
    """
    started = time.monotonic()
    folder = runs / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "plan.json", {"command": command, **asdict(plan)})
    say(f"folding the events of {data} into windows")
    events, kept = windows.build(Sample(data), runs / "cache")
    inside = {which: member(events, which) for which in ("train", "validation")}
    for which, rows in inside.items():
        if not rows.any(axis=0).all():
            raise IntentError(f"{data} has no {which} instants; `intent train` needs the whole sample, Aug 1 to Oct 15")
    say(f"fine-tuning on {plan.windows:,} windows")
    trained = finetune.finetune(events, kept, plan, report=report)
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in trained.history))
    say("calibrating")
    y = labels(events)
    places = np.flatnonzero(inside["validation"].any(axis=1))
    logits = finetune.predict(trained.model, trained.vocabulary, kept, places, device=plan.device)
    calibration = calibrate.fit(logits, y[places], inside["validation"][places])
    drawn = np.random.default_rng(plan.seed).permutation(np.flatnonzero(inside["train"][:, 1]))[:SURROGATE_WINDOWS]
    day = finetune.predict(trained.model, trained.vocabulary, kept, drawn, device=plan.device)[:, 1].astype(np.float64)
    day = day * calibration.slopes[1] + calibration.intercepts[1]
    surrogate = reasons.fit(reasons.facts(Batch.of(kept.take(drawn))), day)
    made = Bundle(
        name=name,
        version="",  # known once the files are written
        shape=plan.shape,
        vocabulary=trained.vocabulary,
        model=trained.model,
        calibration=calibration,
        surrogate=surrogate,
        card="",
        habits=habits.fit(events, kept, seed=plan.seed),
    )
    made = replace(made, surrogate=codes.weighed(made, kept.take(drawn[:WORTH_WINDOWS]), horizon=1))
    spent = time.monotonic() - started
    lines = {}
    for which in ("validation", "test"):
        say(f"measuring on the {which} slice")
        lines[which] = evaluate.evaluate(made, events, kept, which=which, draws=draws, device=plan.device)
    best = max(trained.history, key=lambda entry: entry["score"])
    text = card.write(
        name=name,
        command=command,
        plan=plan,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        train=int(inside["train"].any(axis=1).sum()),
        seen=int(trained.history[-1]["windows"]),
        best=int(best["windows"]),
        seconds=spent,
        threads=torch.get_num_threads(),
        software={"intent-worker": __version__} | {package: version(package) for package in ("torch", "transformers")},
        surrogate=made.surrogate,
        test=lines["test"],
        validation=lines["validation"],
    )
    label = bundle.save(out, replace(made, card=text))
    _write(folder / "report.json", {which: evaluate.document(found) for which, found in lines.items()})
    return Run(folder=folder, bundle=out, version=label, validation=lines["validation"], test=lines["test"])


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
