"""`intent demo`: what it takes, and how it says what came of it."""

import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from worker.errors import CheckFailed
from worker.terminal import say_json

if TYPE_CHECKING:
    from worker.shop.outgoing import Outgoing

_INTERRUPTED = 130
_DAY_MS = 86_400_000
_SHOP_SPEED = 20.0
_DATA_SPEED = 1000.0


def demo(
    *,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Stop sending after so long; default: at Ctrl-C, or when DIR ends.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Simulated events per second.")] = 200.0,
    users: Annotated[int, typer.Option(min=1, help="How many simulated people there are; they return.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed plays the same shoppers.")] = 1,
    bots: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the events that machines cause.")] = 0.02,
    faults: Annotated[
        float,
        typer.Option(
            min=0, max=0.4, help="Share that is sent twice, out of order, too late or broken: a quarter each."
        ),
    ] = 0.04,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Play the real GA360 sample in DIR instead of simulated shoppers.",
        ),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="With --data: the first day (2016-10-01) or time.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.01, help="How fast the shop's time runs; default 20, with --data 1000 times real time."),
    ] = None,
    full_rate: Annotated[bool, typer.Option("--full-rate", help="With --data: as fast as Kafka takes it.")] = False,
    mode: Annotated[
        Literal["every", "latest"], typer.Option(help="Score every event, or only a user's newest in a batch.")
    ] = "every",
    kill_after: Annotated[
        float | None, typer.Option(min=1, help="Kill the worker with SIGKILL after so many seconds, and restart it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: the summary as JSON on standard output.")
    ] = False,
) -> None:
    """The whole system on this machine: a real Kafka, the worker, and shoppers, live in the terminal.

    Nothing is left behind: broker, topics and state live in a temporary folder, and end with the demo. At the end all
    topics are read again, and every event is accounted for: scored once, a dead letter, or a repeat of another one.
    Exit code 0 says that this held, 3 that it did not.

    A minute of simulated shoppers, with a crash in the middle: `intent demo --seconds 60 --kill-after 30`

    Real visitors: `intent demo --data DIR --from 2016-08-08T15:00:00Z --seconds 60`
    """
    from worker.demo.play import Plan, perform
    from worker.demo.summary import as_json as to_json
    from worker.demo.summary import as_table

    if kill_after is not None and seconds is not None and kill_after >= seconds:
        raise typer.BadParameter(
            f"{kill_after:g} is not before the end, --seconds {seconds:g}", param_hint="--kill-after"
        )
    for option, given in {"--from": from_ is not None, "--full-rate": full_rate}.items():
        if given and data is None:
            raise typer.BadParameter("simulated shoppers have none; it needs --data", param_hint=option)
    console, out = Console(stderr=as_json), Console()
    if data is None:
        title, records = _simulated(rate=rate, users=users, seed=seed, bots=bots, faults=faults, speed=speed)
    else:
        title, records = _recorded(data, from_, speed=None if full_rate else speed or _DATA_SPEED)
    plan = Plan(title=title, records=records, seconds=seconds, mode=mode, kill_after_s=kill_after)
    try:
        outcome = perform(plan, console)
    except KeyboardInterrupt:
        console.print("interrupted; everything is stopped")
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        say_json(to_json(outcome))
    else:
        out.print(as_table(outcome))
    if not outcome.holds:
        broken = [check.promise for check in outcome.checks if not check.holds]
        raise CheckFailed(f"the demo's checks did not hold: {'; '.join(broken)}")


def _simulated(
    *, rate: float, users: int, seed: int, bots: float, faults: float, speed: float | None
) -> tuple[str, Iterable["Outgoing"]]:
    """Shoppers of yesterday: the shop's clock is fast, and must not run far ahead of the real one."""
    from worker.shop import statistics
    from worker.shop.simulate import Crowd, Simulator

    each, pace = faults / 4, speed or _SHOP_SPEED
    crowd = Crowd(
        rate=rate,
        users=users,
        speed=pace,
        bots=bots,
        duplicates=each,
        out_of_order=each,
        late=each,
        poison=each,
    )
    start_ms = int(time.time() * 1000) - _DAY_MS
    shop = Simulator(statistics.load(), crowd, seed=seed, start_ms=start_ms)
    return f"simulated shop, {pace:g}x", shop


def _recorded(folder: Path, start: str | None, *, speed: float | None) -> tuple[str, Iterable["Outgoing"]]:
    """Real events; the first one is drawn here, so that opening the tables is not taken for a late schedule."""
    from worker.shop.ga360 import Sample, parse_time
    from worker.shop.outgoing import played

    try:
        from_ms = None if start is None else parse_time(start)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from None
    records = played(Sample(folder).events(from_ms, None), speed=speed)
    first = next(records, None)
    if first is None:
        raise typer.BadParameter(f"{folder} holds no events from {start} on", param_hint="--from")
    return f"{folder.name}, {f'{speed:g}x' if speed else 'full rate'}", itertools.chain([first], records)
