"""`intent train --from` and `--again`: what their options mean together, and how they say what came of it."""

from dataclasses import asdict
from pathlib import Path

import typer
from rich.progress import Progress

from worker import options
from worker.shop.source import Source
from worker.terminal import line, out, say_json
from worker.training import again, loop, succession, update
from worker.training.adapt import METHODS
from worker.training.continual import Update
from worker.training.finetune import Plan
from worker.training.succession import day

_FURTHER = ("since", "until", "peft", "head", "replay", "bound")
"""Those that mean something with --from only."""
_ALWAYS = ("data", "mapping", "bundle", "name", "precision", "device", "draws", "runs", "as_json")
_OF = {
    "from": {*_ALWAYS, *_FURTHER, "former", "windows", "learning_rate", "seed"},
    "again": {*_ALWAYS, "again", "resume"},
}
"""What goes with a bundle that is given; all else is for a fresh network."""


def check(given: list[str]) -> None:
    """Options that were given and do not go together: `BadParameter`, one sentence that names one."""
    bundle = "again" if "again" in given else "from" if "former" in given else None
    for option in given:
        name = "--from" if option == "former" else f"--{option.replace('_', '-')}"
        if bundle is not None and option not in _OF[bundle]:
            raise typer.BadParameter(f"the bundle that --{bundle} names has it settled", param_hint=name)
        if bundle is None and option in _FURTHER:
            raise typer.BadParameter("it needs --from, the bundle to train further", param_hint=name)


def change(
    source: Source,
    since: str | None,
    until: str | None,
    peft: str | None,
    *,
    head: bool,
    windows: int | None,
    learning_rate: float | None,
    replay: float,
    bound: float,
) -> Update:
    """The update that the options ask for; raises `BadParameter`."""
    merging = ", ".join(name for name, method in METHODS.items() if method.merges)
    if peft is not None and peft not in METHODS:
        raise typer.BadParameter(f"{peft} is none of {merging}", param_hint="--peft")
    if peft is not None and not METHODS[peft].merges:
        raise typer.BadParameter(
            f"{peft} does not merge into the weights that a worker serves, as {merging} do; "
            "`python -m loadtest peft` measures it beside them",
            param_hint="--peft",
        )
    if peft is None and not head:
        raise typer.BadParameter("without --peft all parameters learn, the head's too", param_hint="--no-head")
    if peft == "head" and not head:
        raise typer.BadParameter("--peft head trains nothing else", param_hint="--no-head")
    first, last = source.splits.start, source.splits.test
    accepted = f"is not between {day(first)} and {day(last)}, where the test slice begins"
    since_ms, until_ms = options.span(source, since, until, names=("--since", "--until"))
    if since_ms is not None and not first <= since_ms < last:
        raise typer.BadParameter(f"{since} {accepted}", param_hint="--since")
    if until_ms is not None and not first < until_ms <= last:
        raise typer.BadParameter(f"{until} {accepted}", param_hint="--until")
    return Update(
        since_ms=first if since_ms is None else since_ms,
        until_ms=last if until_ms is None else until_ms,
        method=peft,
        head=head,
        learning_rate=learning_rate,
        replay=replay,
        bound=bound,
        **({} if windows is None else {"windows": windows}),
    )


def train_further(
    source: Source,
    former: Path,
    bundle: Path,
    *,
    name: str | None,
    asked: Update,
    plan: Plan,
    runs: Path,
    draws: int,
    progress: Progress,
) -> update.Outcome:
    """The run, shown on `progress`."""
    task = progress.add_task("training", total=asked.windows)

    def report(step: loop.Progress) -> None:
        progress.update(task, completed=step.windows, total=step.of_windows, description=f"loss {step.loss:.3f}")
        if step.validation is not None:
            losses = [
                f"{step.validation[part]:.4f} on {part} labels" for part in ("new", "old") if part in step.validation
            ]
            line(f"  {step.windows:,} windows, {step.seconds:.0f} s: log loss {', '.join(losses)}", to=progress.console)

    return update.update(
        source,
        former,
        bundle,
        name=name,
        change=asked,
        plan=plan,
        runs=runs,
        draws=draws,
        command=options.command_line(),
        say=lambda stage: line(stage, to=progress.console),
        report=report,
    )


def train_again(
    source: Source,
    former: Path,
    bundle: Path,
    *,
    name: str | None,
    place: again.Place,
    runs: Path,
    draws: int,
    resume: Path | None,
    progress: Progress,
) -> update.Outcome:
    """The run, shown on `progress`."""
    task = progress.add_task("training", total=None)

    def report(step: loop.Progress) -> None:
        described = f"{step.stage}, loss {step.loss:.3f}"
        progress.update(task, completed=step.windows, total=step.of_windows, description=described)

    return again.again(
        source,
        former,
        bundle,
        name=name,
        place=place,
        runs=runs,
        draws=draws,
        command=options.command_line(),
        say=lambda stage: line(stage, to=progress.console),
        report=report,
        resume=resume,
    )


def show(found: update.Outcome, *, as_json: bool) -> None:
    """The comparison with the former bundle, and where the new one is."""
    if as_json:
        result = {
            "bundle": str(found.bundle),
            "version": found.version,
            "from": found.before,
            "run": str(found.folder),
            "trained_parameters": found.trained_parameters,
            "comparison": [asdict(pair) for pair in found.pairs],
        }
        say_json(result)
        return
    if found.pairs:
        out.print(succession.table(found.pairs, before=found.before, after=found.version))
    else:
        line(succession.UNCOMPARED)
    line(f"{found.version} in {found.bundle}, from {found.before}; the history in {found.folder}")
