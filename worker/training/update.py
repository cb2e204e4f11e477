"""One run from a bundle to its successor: newer data, training, calibration, the paired comparison, the card.

Owns the order and the run's folder. The successor carries its comparison with the bundle that it came from, so that
`intent model promote` need not be given data. The test slice is not touched.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from worker.errors import IntentError
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle
from worker.scoring.model import weights
from worker.shop.source import Source
from worker.training import continual, finetune, finish, loop, succession, windows
from worker.training.runs import Run

LEAST: Final = 20
"""Instants of both outcomes: with fewer, nothing is calibrated anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    folder: Path
    bundle: Path
    version: str
    before: str
    pairs: list[succession.Pair]
    history: loop.History
    trained_parameters: int


def update(
    source: Source,
    former: Path,
    out: Path,
    *,
    name: str | None = None,
    change: continual.Update,
    plan: finetune.Plan,
    runs: Path,
    draws: int,
    command: str,
    say: Callable[[str], None],
    report: Callable[[loop.Progress], None],
) -> Outcome:
    """Trains the bundle in `former` further and writes its successor to `out`, under its own `name` or the former's.
    Minutes.

    Raises `IntentError` when there is nothing new to learn from, or when no checkpoint was better on the watched
    visitors within the bound on what may be forgotten; `out` is then left alone.
    """
    was = bundles.load(former)
    if was.refitted:
        say(
            f"{was.name} {was.version} was refitted: it has learnt all that became known before its test slice began; "
            "an earlier --since gives it the same labels as new"
        )
    say(f"folding the events of {source.name} into windows")
    events, kept = windows.build(source, runs / "cache", say=say)
    parts = continual.split(events, since_ms=change.since_ms, until_ms=change.until_ms)
    asked = {"from": was.version, **asdict(change), "seed": plan.seed, "bf16": plan.bf16, "device": plan.device}
    run = Run.begin(runs, f"{was.name}-further", plan=asked, data=source.files, command=command)

    def step(progress: loop.Progress) -> None:
        run.add(progress)
        report(progress)

    say(
        f"training {was.name} {was.version} on {change.windows:,} windows; "
        f"{int(parts.new.any(axis=1).sum()):,} instants are new, {int(parts.old.any(axis=1).sum()):,} are replayed"
    )
    found = continual.fit(was.model, was.vocabulary, events, kept, change, plan, report=step)
    if loop.best(found.history) is found.history[0]:
        raise IntentError(
            f"no checkpoint did better on the new labels with at most {change.bound:.0%} more loss on the old ones: "
            f"{was.name} {was.version} stays (history in {run.folder})"
        )
    say("calibrating, and comparing with the former")
    span = _span(change)
    # Not on those who judge: log loss and calibration are compared on them too. Drift: the time that the labels are of.
    made = finish.calibrated(
        replace(was, name=name or was.name, version="", weights=weights(found.model), recipe=None),
        events,
        kept,
        parts.watched_new,
        least=LEAST,
        device=plan.device,
    )
    made = finish.completed(
        made,
        events,
        kept,
        taught=np.flatnonzero((parts.new | parts.old)[:, 1]),
        since_ms=change.since_ms,
        until_ms=change.until_ms,
        about=span,
        seed=plan.seed,
        device=plan.device,
    )
    pairs = succession.compare(was, made, events, kept, parts.judging, draws=draws, device=plan.device)
    card = was.card + _section(was, change, pairs, found, span=span, command=command)
    metrics = succession.document(was, pairs, slice_=f"visitors that judge, labels known {span}")
    made = replace(made, card=card, metrics=metrics)
    return saved(made, out, was, pairs, run, history=found.history, trained_parameters=found.trained_parameters)


def saved(
    made: Bundle,
    out: Path,
    was: Bundle,
    pairs: list[succession.Pair],
    run: Run,
    *,
    history: loop.History,
    trained_parameters: int,
) -> Outcome:
    """Writes a successor of `was`, and the comparison into the run's folder."""
    version = bundles.save(out, made)
    run.write("report.json", [asdict(pair) for pair in pairs])
    return Outcome(
        folder=run.folder,
        bundle=out,
        version=version,
        before=was.version,
        pairs=pairs,
        history=history,
        trained_parameters=trained_parameters,
    )


_SECTION: Final = """
## Updated

All above is of version {before}, which this one continues. Trained further on what became known {span}
({windows:,} windows, {replay:.0%} of them older; {parameters:,} parameters, {method}) with

    {command}

One visitor in {groups} judges and taught nothing. On their instants, this version against the former, with the paired
difference and its 95 % interval by resampling visitors:

{table}

Log loss on older instants of watched visitors: {old_before:.4f} before, {old_after:.4f} now.
"""


def _section(
    was: Bundle,
    change: continual.Update,
    pairs: list[succession.Pair],
    found: continual.Updated,
    *,
    span: str,
    command: str,
) -> str:
    best = loop.best(found.history)
    return _SECTION.format(
        before=was.version,
        span=span,
        windows=int(best["windows"]),
        replay=change.replay if "old" in best else 0.0,
        parameters=found.trained_parameters,
        method=change.method or "all of them",
        command=command,
        groups=continual.GROUPS,
        table=succession.markdown(pairs),
        old_before=found.history[0].get("old", float("nan")),
        old_after=best.get("old", float("nan")),
    )


def _span(change: continual.Update) -> str:
    return f"{succession.day(change.since_ms)} to {succession.day(change.until_ms)}"
