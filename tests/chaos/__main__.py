"""`python -m tests.chaos`: runs a campaign, shows it while it goes on, and says what it found."""

import json
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos import campaign as campaigns
from tests.chaos import report
from tests.chaos.campaign import Campaign
from tests.chaos.episode import Result
from tests.chaos.faults import KINDS
from tests.chaos.plan import Episode
from tests.chaos.process import SCORERS, Scorer
from worker.__main__ import unwind_when_stopped
from worker.errors import CheckFailed, SettingError
from worker.terminal import told

_WIDTH: Final = 130

_HELP: Final = f"""Breaks a running system on purpose, and checks that nothing was lost or counted twice.

Real workers on a real Kafka, while a shop sends events: duplicates, late and disordered ones, erasures, bad records.
Faults strike at random moments, several at a time; afterwards everything that readers saw is compared with an oracle
that shares no code with the worker. A minute an episode of ten faults.

The same seed, number and kinds plan the same faults; a finding names its episode and the faults in it.
Kinds: {", ".join(KINDS)}.

Exit codes: 0 nothing found, 1 failed, 2 bad usage, 3 a check did not hold.
"""


def _scorer(name: str) -> Scorer:
    for scorer in SCORERS:
        if scorer == name:
            return scorer
    raise SettingError(f"there is no scorer {name!r}; there are {', '.join(SCORERS)}")


def main(
    *,
    faults: Annotated[int, typer.Option(min=1, help="How many to inject.")] = 200,
    seed: Annotated[int | None, typer.Option(help="Of the plan; chosen and shown when not given.")] = None,
    kinds: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    scorer: Annotated[
        str, typer.Option(help="`bundle`: the shipped model. `digest`: a hash of the window, for a quick look.")
    ] = "bundle",
    as_json: Annotated[bool, typer.Option("--json", help="For programs, on stdout.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Keep chaos.json, logs and state there; default: a temporary folder.")
    ] = None,
) -> None:
    """See `_HELP`."""
    chosen = Campaign(
        seed=secrets.randbits(32) if seed is None else seed,
        faults=faults,
        kinds=tuple(kinds.split(",")) if kinds else tuple(KINDS),
        scorer=_scorer(scorer),
    )
    console = Console(stderr=True)
    console.print(f"seed {chosen.seed}", highlight=False)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        results = _watched(chosen, console, out or Path(folder))
    document = report.document(results, chosen)
    if out is not None:
        (out / "chaos.json").write_text(json.dumps(document, indent=2))
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        shown = Console()
        shown.width = max(shown.width, _WIDTH)  # into a file or a pipe it would be cut to 80
        shown.print(report.table(results, chosen))
    if not report.clean(results):
        raise CheckFailed(f"the contract did not hold; `--seed {chosen.seed} --faults {faults}` plans the same faults")


def _watched(chosen: Campaign, console: Console, folder: Path) -> list[Result]:
    """Runs it, under a line that says where it is."""
    episodes = chosen.episodes()
    columns = (TextColumn("{task.completed}/{task.total} faults"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        line = progress.add_task("starts Kafka", total=chosen.faults)
        findings = 0

        def tell(one: Episode, what: str) -> None:
            progress.update(line, description=f"episode {one.number + 1}/{len(episodes)}, findings {findings}: {what}")

        def done(result: Result) -> None:
            nonlocal findings
            progress.advance(line, len(result.struck))
            findings += sum(map(len, report.found(result)))
            progress.console.print(
                f"episode {result.episode.number + 1}/{len(episodes)}: {len(result.struck)} faults, "
                f"{result.events:,} events, {sum(map(len, report.found(result)))} findings, {result.seconds:.0f} s",
                highlight=False,
            )
            for found in report.told([result]):
                progress.console.print(found, highlight=False, markup=False)

        return campaigns.run(chosen, folder=folder, tell=tell, done=done)


def program() -> None:
    """Errors are one line on stderr and an exit code, and a signal ends it in order, as with `intent`."""
    unwind_when_stopped()
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command(name="chaos", help=_HELP)(main)
    with told("chaos"):
        app()


if __name__ == "__main__":
    program()
