"""A bundle's recipe once more, from scratch, on all the data up to its end: what a shop does when new weeks are there.

Owns the order. Nothing is chosen: the plan, and after how many windows it was best, are the former's. Nothing is left
to measure it on but the last two weeks of the visitors who calibrate it, which taught neither: there it is compared
with the former, by paired differences, which it carries for `intent model promote`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from worker.errors import IntentError
from worker.scores import REASONS
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle
from worker.shop.source import Source
from worker.training import finetune, finish, habits, loop, succession, windows
from worker.training.labels import REFIT_HELD_OUT, member
from worker.training.recipe import Recipe
from worker.training.runs import Run
from worker.training.succession import day
from worker.training.train import require_outcomes
from worker.training.update import Outcome, saved


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and how it is computed, which is no part of the recipe."""

    device: str
    bf16: bool


def again(
    source: Source,
    former: Path,
    out: Path,
    *,
    name: str | None = None,
    place: Place,
    runs: Path,
    draws: int,
    command: str,
    say: Callable[[str], None],
    report: Callable[[loop.Progress], None],
    resume: Path | None = None,
) -> Outcome:
    """Repeats the run of the bundle in `former` and writes the new one to `out`. As long as a refit.

    `name` is the new one's, by default the former's. `resume` is the folder of an interrupted run of the same. Raises
    `IntentError` where the bundle does not say how it was trained, or the data hold nothing that it has not learnt.
    """
    was = bundles.load(former)
    recipe = Recipe.of(was)
    plan = replace(recipe.plan, device=place.device, bf16=place.bf16)
    asked = {"again": was.version, **asdict(plan)}
    if resume is None:
        run = Run.begin(runs, f"{was.name}-again", plan=asked, data=source.files, command=command)
    else:
        run = Run.resume(resume, plan=asked, data=source.files)

    def step(progress: loop.Progress) -> None:
        run.add(progress)
        report(progress)

    say(f"folding the events of {source.name} into windows")
    events, kept = windows.build(source, runs / "cache", say=say)
    splits = events.splits.to_the_end()
    if recipe.knows(source) and splits.end <= recipe.until_ms:
        raise IntentError(
            f"{was.name} {was.version} has learnt all that became known up to {day(recipe.until_ms)}, and "
            f"{source.name} ends on {day(splits.end)}; give later data"
        )
    events = replace(events, splits=splits)
    inside = {which: member(events, which) for which in ("refit", "refit calibration")}
    require_outcomes(source, events, inside)
    taught, held_out = inside.values()
    say(f"{was.name} {was.version} again, {recipe.windows:,} windows, on all up to {day(splits.end)}")
    trained = finetune.finetune(events, kept, plan, report=step, refit=recipe.windows, keep=run.checkpoints, say=say)
    say("calibrating, learning habits, weighing reason codes, counting what is usual")
    made = finish.calibrated(
        finish.bare(name or was.name, plan.shape, trained.vocabulary, trained.model),
        events,
        kept,
        held_out,
        device=plan.device,
    )
    made = finish.completed(
        replace(made, refitted=True, habits=habits.fit(events, kept, seed=plan.seed)),
        events,
        kept,
        taught=np.flatnonzero(taught[:, 1]),
        since_ms=splits.validation,
        until_ms=splits.end,
        about=f"{day(splits.validation)} to {day(splits.end)}",
        seed=plan.seed,
        device=plan.device,
    )
    say(f"comparing with {was.version}")
    judging = held_out & (events.time_ms >= recipe.until_ms)[:, None]
    pairs = succession.compare(was, made, events, kept, judging, draws=draws, device=plan.device)
    metrics = succession.document(
        was,
        pairs,
        slice_=f"visitors that calibrate, {day(max(recipe.until_ms, splits.week_validation))} to {day(splits.end)}",
    )
    repeated = Recipe.by(source, plan, windows=recipe.windows, until_ms=splits.end)
    made = replace(made, recipe=repeated.document())
    card = _card(
        was, made, recipe, pairs, taught=int(taught.any(axis=1).sum()), until=day(splits.end), command=run.command
    )
    made = replace(made, card=card, metrics=metrics)
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    return saved(made, out, was, pairs, run, history=trained.history, trained_parameters=parameters)


_SECTION: Final = """
## Trained again

All below is of version {before}: its choices, its measurements, its limits. This one is trained by the same recipe,
from scratch and as long, on what became known up to {until}, where {before} ends with {before_until}
({taught:,} instants), by

    {command}

Nothing was chosen anew. **It has learnt the slices that {before} was measured on below**: whoever measures it there
flatters it. Held out were the last two weeks of one visitor in {one_in}, on which it is calibrated. On their instants,
which taught neither, this version against {before}, with the paired difference and its 95 % interval by resampling
visitors:

{table}

Its own reason codes weigh, in logits: {codes}.
"""


def _card(
    was: Bundle, made: Bundle, recipe: Recipe, pairs: list[succession.Pair], *, taught: int, until: str, command: str
) -> str:
    """The former's, with a section of this one's before all others."""
    section = _SECTION.format(
        before=was.version,
        until=until,
        before_until=day(recipe.until_ms),
        taught=taught,
        command=command,
        one_in=REFIT_HELD_OUT,
        table=succession.markdown(pairs),
        codes=", ".join(
            f"{code} {weight:+.2f}" for code, weight in zip(REASONS, made.surrogate.weights.tolist(), strict=True)
        ),
    )
    about, heading, rest = was.card.partition("\n## ")
    return f"{about}{section}{heading}{rest}"
