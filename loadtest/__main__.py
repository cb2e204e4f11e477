"""`python -m loadtest`, and `make bench`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import orjson
import psutil
import typer
from rich.console import Console

from loadtest import report
from loadtest.generator import Load
from loadtest.latency import Result, measure
from loadtest.system import running
from worker.errors import CheckFailed, IntentError, SettingError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CHECK = 3

out = Console()
err = Console(stderr=True)


def latency(
    *,
    rate: Annotated[
        list[float] | None, typer.Option(min=1, help="Events a second; repeat for several. Default: 500 and 2000.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure each rate.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before that, not measured.")] = 3.0,
    users: Annotated[int, typer.Option(min=1, help="How many users the events are of.")] = 10_000,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of each topic.")] = 4,
    scorer: Annotated[
        Literal["constant", "bundle"],
        typer.Option(
            help="constant: a score that costs nothing, so what is measured is the stream; bundle: the model."
        ),
    ] = "constant",
    bootstrap_servers: Annotated[str | None, typer.Option(help="Your own Kafka; default: one is started here.")] = None,
    seed: Annotated[int, typer.Option(help="Of users, kinds and items.")] = 1,
    folder: Annotated[Path, typer.Option("--out", help="Folder for latency.json and latency.png.")] = Path(
        "runs/latency"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="The JSON on standard output too, in place of the table.")
    ] = False,
) -> None:
    """Measure latency under open-loop load: from an event's scheduled send to its committed score in a reader's hand.

    Starts a broker and a worker on this machine, sends each rate for its time, and writes a table, a plot and JSON. The
    schedule is fixed beforehand and kept whatever happens, so a stall shows in every event that was due meanwhile.
    Exit code 3 when a score is missing or comes twice.
    """
    rates = rate or [500.0, 2000.0]
    load_before = psutil.getloadavg()[0]
    if load_before > 0.5 * (psutil.cpu_count() or 1):
        err.print(
            f"this machine is busy (load {load_before:.1f}): expect worse latencies than it can do", style="yellow"
        )
    results: list[Result] = []
    with (
        err.status("starting Kafka and the worker") as status,
        running(scorer=scorer, partitions=partitions, servers=bootstrap_servers) as settings,
    ):
        for number, each in enumerate(rates):
            status.update(f"{each:,.0f} events/s for {warmup + seconds:.0f} s")
            load = Load(name=f"load{number}", rate=each, seconds=warmup + seconds, users=users, seed=seed)
            results.append(measure(settings, load, warmup_s=warmup))
        status.update("stopping")
    title = f"Latency, scorer {scorer}, {partitions} partitions"
    document = report.document(
        results,
        scorer=scorer,
        partitions=partitions,
        command=shlex.join(["python", "-m", "loadtest", *sys.argv[1:]]),
        load_before=load_before,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latency.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    report.plot(results, folder / "latency.png", title=title)
    if as_json:
        typer.echo(orjson.dumps(document).decode())
    else:
        out.print(report.table(results, title=title))
        out.print(f"written: {folder / 'latency.json'}, {folder / 'latency.png'}", highlight=False)
    missing, repeated = (sum(getattr(result, name) for result in results) for name in ("missing", "repeated"))
    if missing or repeated:
        raise CheckFailed(f"{missing} scores are missing and {repeated} came twice")


def main() -> None:
    """The program; errors of our own are one line on stderr and an exit code, as `intent`'s are."""
    try:
        typer.run(latency)
    except IntentError as error:
        err.print(f"loadtest: {error}", style="red", highlight=False, markup=False)
        code = (
            EXIT_USAGE
            if isinstance(error, SettingError)
            else EXIT_CHECK
            if isinstance(error, CheckFailed)
            else EXIT_FAILED
        )
        sys.exit(code)


if __name__ == "__main__":
    main()
