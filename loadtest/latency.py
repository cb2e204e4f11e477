"""The command `latency`: loads of several rates, one after the other, and what is told of them."""

from enum import StrEnum
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from loadtest import report, taken
from loadtest.conclude import conclude
from loadtest.contenders.task import Job
from loadtest.generator import APART, Load
from loadtest.openloop import Result, measure
from loadtest.options import Json, out
from worker.errors import CheckFailed, SettingError
from worker.terminal import err


class Beside(StrEnum):
    """Programs to compare with."""

    BARE = "bare"
    BARE_EXACTLY_ONCE = "bare-exactly-once"


THIS: Final = "this worker"


def latency(
    *,
    rate: Annotated[
        list[float] | None, typer.Option(min=1, help="Events a second; repeat for several. Default: 500 and 2000.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure each rate.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before that, not measured.")] = 3.0,
    users: Annotated[int, typer.Option(min=1, help="How many users the events are of.")] = 10_000,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of each topic.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="That share the partitions, a process each.")] = 1,
    scorer: Annotated[
        Literal["constant", "bundle"],
        typer.Option(
            help="constant: a score that costs nothing, so what is measured is the stream; bundle: the model."
        ),
    ] = "constant",
    job: Annotated[
        Job, typer.Option(help="full: the product's own work. light: as in `pipeline`, with the constant scorer only.")
    ] = "full",
    settle: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds of the highest rate that are sent first and not told: a broker that has just been started "
            "spends its first minute compiling its Java.",
        ),
    ] = 30.0,
    beside: Annotated[
        list[Beside] | None,
        typer.Option(
            help="Measure at the same rates, afterwards, a loop that does the same job over confluent-kafka with its "
            "windows in memory (bare), or all of it in one transaction a turn (bare-exactly-once). Repeat for both."
        ),
    ] = None,
    bootstrap_servers: Annotated[str | None, typer.Option(help="Your own Kafka; default: one is started here.")] = None,
    seed: Annotated[int, typer.Option(help="Of users, kinds and items.")] = 1,
    folder: Annotated[Path, out("latency.json and latency.png")] = Path("runs/latency"),
    as_json: Json = False,
) -> None:
    """Measure latency under open-loop load: from an event's scheduled send to its committed score in a reader's hand.

    Starts a broker and workers on this machine, sends each rate for its time, and writes a table, a plot and JSON. The
    schedule is fixed beforehand and kept whatever happens, so a stall shows in every event that was due meanwhile.
    What is measured beside it (`--beside`) gets a broker of its own when this one does, and is one process always.
    Exit code 3 when a score is missing or comes twice.
    """
    from loadtest.system import Program, running

    rates = rate or [500.0, 2000.0]
    if workers > partitions:
        raise SettingError(f"`--workers {workers}` are more than `--partitions {partitions}`: some would have none")
    if job == "light" and scorer != "constant":
        raise SettingError("`--job light` goes with `--scorer constant`: its windows are not what a model reads")
    load_before = taken.load_before(err)
    programs: dict[str, Program] = {THIS: scorer, **{name.value: name.value for name in beside or ()}}
    found: dict[str, list[Result]] = {}
    settled: list[Result] = []
    for name, program in programs.items():
        with (
            err.status(f"{name}: starting, with Kafka") as status,
            running(
                program=program,
                job=job,
                partitions=partitions,
                workers=workers if name == THIS else 1,
                servers=bootstrap_servers,
            ) as members,
        ):
            numbers = count(step=APART)
            if settle:
                status.update(f"{name}: settling, {max(rates):,.0f} events/s for {settle:.0f} s")
                first = Load(rate=max(rates), seconds=settle, users=users, seed=seed, first=next(numbers), job=job)
                settled.append(measure(members, first, warmup_s=settle))
            found[name] = []
            for each in rates:
                status.update(f"{name}: {each:,.0f} events/s for {warmup + seconds:.0f} s")
                load = Load(rate=each, seconds=warmup + seconds, users=users, seed=seed, first=next(numbers), job=job)
                found[name].append(measure(members, load, warmup_s=warmup))
            status.update(f"{name}: stopping")
    title = f"Latency, {job} job, scorer {scorer}, {partitions} partitions, {workers} worker{'s' * (workers > 1)}"
    document = report.document(
        found, scorer=scorer, job=job, partitions=partitions, workers=workers, load_before=load_before
    )
    conclude(
        document,
        folder,
        "latency",
        lambda: [report.table(found, title=title), report.parts(found[THIS])],
        as_json=as_json,
        plot=partial(report.plot, found, title=title),
    )
    results = [*settled, *(result for some in found.values() for result in some)]
    missing, repeated = (sum(getattr(result, name) for result in results) for name in ("missing", "repeated"))
    if missing or repeated:
        raise CheckFailed(f"{missing} scores are missing and {repeated} came twice")
