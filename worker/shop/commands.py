"""`intent simulate` and `intent import`: what they take, and what they say of what was sent."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from worker import options
from worker.errors import IntentError
from worker.terminal import err, line, say_json

if TYPE_CHECKING:
    from worker.events import Event
    from worker.settings import Settings
    from worker.shop.columns import Rejects
    from worker.shop.outgoing import Outgoing
    from worker.shop.publish import Publisher

import_app = typer.Typer(no_args_is_help=True, help="Publish recorded events to the events topic.")

_INTERRUPTED = 130


def simulate(
    *,
    rate: Annotated[float, typer.Option(min=0.001, help="Events per second, whatever the system does.")] = 100.0,
    users: Annotated[int, typer.Option(min=1, help="How many people there are; they return.")] = 10_000,
    speed: Annotated[float, typer.Option(min=0.001, help="Shop time against real time: 20 is a minute in 3 s.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed and start give the same bytes.")] = 1,
    start: Annotated[str | None, typer.Option(help="Shop time of the first event, RFC 3339; default: now.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="End after so long; default: at Ctrl-C.")] = None,
    events: Annotated[int | None, typer.Option(min=0, help="End after so many events.")] = None,
    bots: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the events that machines cause.")] = 0.0,
    duplicates: Annotated[float, typer.Option(min=0, max=0.9, help="Share that is sent again.")] = 0.0,
    out_of_order: Annotated[float, typer.Option(min=0, max=0.9, help="Share that comes 1 to 120 s late.")] = 0.0,
    late: Annotated[float, typer.Option(min=0, max=0.9, help="Share that comes 11 to 60 min late.")] = 0.0,
    poison: Annotated[float, typer.Option(min=0, max=0.9, help="Share that cannot be read, in 15 ways.")] = 0.0,
    daily_rhythm: Annotated[bool, typer.Option(help="Let the rate follow the hours of the shop's day.")] = False,
    as_json: options.Json = False,
) -> None:
    """Play shoppers into the events topic: sessions that follow the statistics of a real shop.

    Open loop: an event is sent when it is due, even while earlier ones are not acknowledged; its record's timestamp is
    the time it was due. The statistics are in `worker/shop/statistics.json`. A share of faults shows how the worker
    treats them: `--duplicates 0.01 --late 0.005 --poison 0.005`.
    """
    from worker.config import load
    from worker.shop import statistics
    from worker.shop.simulate import Crowd, Simulator

    crowd = Crowd(
        rate=rate,
        users=users,
        speed=speed,
        bots=bots,
        duplicates=duplicates,
        out_of_order=out_of_order,
        late=late,
        poison=poison,
        daily_rhythm=daily_rhythm,
    )
    start_ms = int(time.time() * 1000) if start is None else _time(start, "--start")
    settings = load()
    shop = Simulator(statistics.load(), crowd, seed=seed, start_ms=start_ms)
    records = islice(shop.before(math.inf if seconds is None else seconds), events)
    _publish(settings, records, what="simulated events", total=events, as_json=as_json, made=shop.sent)


@import_app.command("ga360")
def import_ga360(
    folder: Annotated[
        Path, typer.Argument(exists=True, help="Holds hits.parquet and sessions.parquet of the GA360 sample.")
    ],
    *,
    from_: Annotated[str | None, typer.Option("--from", help="First day (2016-10-01) or time; default: all.")] = None,
    to: options.To = None,
    speed: Annotated[
        float | None, typer.Option(min=0.001, help="So many times real time; default: as fast as possible.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Publish a slice of the real GA360 sample to the events topic, in its order and with its own event times."""
    from worker.config import load
    from worker.shop import ga360
    from worker.shop.outgoing import played

    settings = load()
    sample = ga360.Sample(folder)
    from_ms, to_ms = options.span(sample, from_, to)
    total = sample.count(from_ms, to_ms)
    records = played(sample.events(from_ms, to_ms), speed=speed)
    _publish(settings, records, what=f"events of {folder}", total=total, as_json=as_json, made={})


@import_app.command("table")
def import_table(
    table: Annotated[Path, typer.Argument(exists=True, help="CSV or Parquet file of a shop's events.")],
    mapping: Annotated[
        Path,
        typer.Option("--map", exists=True, dir_okay=False, help="TOML file that says how its columns become events."),
    ],
    *,
    from_: options.From = None,
    to: options.To = None,
    speed: Annotated[
        float | None, typer.Option(min=0.001, help="So many times real time; default: as fast as possible.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Publish any shop's recorded events to the events topic, by time and with their own event times.

    A mapping names the columns and what their values mean: `deploy/mappings/ga4-export.toml` is one for GA4's BigQuery
    export, `deploy/mappings/README.md` explains the rest. Each row becomes part of an event, is left out because the
    mapping says so, is rejected with a reason, or lies outside of --from and --to; the four add up to the rows.

    Example: `intent import table events.csv --map mapping.toml`
    """
    from worker.config import load
    from worker.shop.outgoing import played
    from worker.shop.table import Table

    settings = load()
    source = Table(table, mapping)
    from_ms, to_ms = options.span(source, from_, to)
    made: dict[str, int] = {}

    def events() -> Iterator["Event"]:
        yield from source.events(from_ms, to_ms)
        made.update(source.account(from_ms, to_ms))

    sent = _publish(
        settings,
        played(events(), speed=speed),
        what=f"events of {table}",
        total=source.count(from_ms, to_ms),
        as_json=as_json,
        made=made,
        rejects=source.rejects,
    )
    if not sent:
        raise IntentError(f"{table} has no event to send: {options.counts(made)}; {source.rejects}")
    options.tell(source.rejects)


def _time(text: str, option: str) -> int:
    from worker.events import MAX_TIME_MS
    from worker.shop import ga360

    try:
        time_ms = ga360.parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if not 0 <= time_ms <= MAX_TIME_MS:
        raise typer.BadParameter(f"{text!r} is not between 1970 and 9999; no event may lie there", param_hint=option)
    return time_ms


def _publish(
    settings: "Settings",
    records: "Iterable[Outgoing]",
    *,
    what: str,
    total: int | None,
    as_json: bool,
    made: Mapping[str, int],
    rejects: "Rejects | None" = None,
) -> int:
    """Sends them all and says what came of it; how many. Ctrl-C ends it, waits for the answers and exits 130."""
    from worker.shop.publish import Publisher, connect

    publisher = Publisher(connect(settings), settings.topics.events)
    interrupted = False
    live = Live(get_renderable=lambda: _line(publisher, what, total), console=err, transient=True, refresh_per_second=5)
    with live if err.is_terminal else nullcontext():
        try:
            publisher.run(records)
        except KeyboardInterrupt:
            interrupted = True
        publisher.finish()
    _report(publisher, settings, what=what, as_json=as_json, made=made, rejects=rejects)
    if interrupted:
        raise typer.Exit(_INTERRUPTED)
    return publisher.sent


def _line(publisher: "Publisher", what: str, total: int | None) -> Text:
    of_total = "" if total is None else f" of {total:,}"
    rate = publisher.sent / publisher.seconds if publisher.seconds else 0.0
    waiting = publisher.sent - publisher.acked - publisher.failed
    return Text(f"{what}: {publisher.sent:,}{of_total} sent, {rate:,.0f}/s, {waiting:,} not yet acknowledged")


def _report(
    publisher: "Publisher",
    settings: "Settings",
    *,
    what: str,
    as_json: bool,
    made: Mapping[str, int],
    rejects: "Rejects | None",
) -> None:
    delay = publisher.delay_ms
    scheduled = delay.get_total_count() > 0
    if as_json:
        found = {
            "topic": settings.topics.events,
            "sent": publisher.sent,
            "acknowledged": publisher.acked,
            "seconds": round(publisher.seconds, 3),
            "made": dict(made),
            "delay_ms": {f"p{p:g}": delay.get_value_at_percentile(p) for p in (50, 99, 100)} if scheduled else None,
        }
        say_json(found | ({} if rejects is None else {"rejected": rejects.document()}))
        return
    rate = publisher.sent / publisher.seconds if publisher.seconds else 0.0
    line(f"{publisher.acked:,} {what} in {settings.topics.events}, {publisher.seconds:.1f} s, {rate:,.0f}/s")
    if made:
        line(f"  {options.counts(made)}")
    if scheduled:
        late_ms = delay.get_value_at_percentile(99)
        line(f"  sent within {late_ms} ms of when they were due (99 %), {delay.get_max_value()} ms at worst")
