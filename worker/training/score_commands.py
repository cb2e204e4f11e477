"""`intent score`: recorded events to a table of scores, offline."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker import options
from worker.terminal import line, say_json

if TYPE_CHECKING:
    from worker.shop.columns import Rejects
    from worker.shop.source import Source
    from worker.training.score import Keys

score_app = typer.Typer(
    help="Score a sample offline, through the worker's own window and engine.", no_args_is_help=True
)

_Bundle = Annotated[Path | None, typer.Option(help="Bundle folder; default: the one shipped with the package.")]


@score_app.command("ga360")
def score_ga360(
    folder: Annotated[
        Path, typer.Argument(exists=True, help="Holds hits.parquet and sessions.parquet of the GA360 sample.")
    ],
    *,
    file: options.Scores,
    from_: Annotated[str | None, typer.Option("--from", help="First day (2016-10-01) or time; default: all.")] = None,
    to: options.To = None,
    bundle: _Bundle = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score every instant of a slice: the worker's own window fold, its engine, its calibration.

    Columns: visitor_id, session_id, hit_number, timestamp_ms, purchase_30m, purchase_24h, purchase_7d; percentile_30m,
    percentile_24h, percentile_7d where the bundle has a reference for them. Events on the order-completed page are
    history, not instants. What lies before --from is folded, so that windows are as full as they were live. A date is
    the shop's day: it begins at 07:00 UTC.

    Example: `intent score ga360 ../shared/data/ga360 --from 2016-10-01 --out october.parquet`
    """
    from worker.shop.ga360 import Sample
    from worker.training.score import GA360

    _score_source(Sample(folder), file, from_=from_, to=to, bundle=bundle, device=device, as_json=as_json, keys=GA360)


@score_app.command("table")
def score_table(
    table: Annotated[Path, typer.Argument(exists=True, help="CSV or Parquet file of a shop's events.")],
    mapping: Annotated[
        Path,
        typer.Option("--map", exists=True, dir_okay=False, help="TOML file that says how its columns become events."),
    ],
    *,
    file: options.Scores,
    from_: options.From = None,
    to: options.To = None,
    bundle: _Bundle = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score every instant of any shop's table: the worker's own window fold, its engine, its calibration.

    Columns: user_id, session_id, event_id, timestamp_ms, window_digest, purchase_30m, purchase_24h, purchase_7d;
    percentile_30m, percentile_24h, percentile_7d where the bundle has a reference for them. Rows that are no events are
    counted and told. Events on the mapping's confirmation pages are history, not instants. A replay of the imported
    table gives the same windows, which their digests show.

    Example: `intent score table events.csv --map mapping.toml --out scores.parquet`
    """
    from worker.shop.table import Table
    from worker.training.score import TABLE

    source = Table(table, mapping)
    _score_source(
        source,
        file,
        from_=from_,
        to=to,
        bundle=bundle,
        device=device,
        as_json=as_json,
        keys=TABLE,
        account=lambda to_ms: source.account(None, to_ms),
        rejects=source.rejects,
    )
    options.tell(source.rejects)


def _score_source(
    source: "Source",
    file: Path,
    *,
    from_: str | None,
    to: str | None,
    bundle: Path | None,
    device: str,
    as_json: bool,
    keys: "Keys",
    account: Callable[[int | None], dict[str, int]] = lambda _to_ms: {},
    rejects: "Rejects | None" = None,
) -> None:
    """Scores, and says what came of it, of a table also of its rows."""
    from worker.scoring.bundle import load
    from worker.scoring.engine import Engine, own_threads
    from worker.training.score import score

    from_ms, to_ms = options.span(source, from_, to)
    begin = time.monotonic()
    with (
        Engine(partial(load, bundle), device=device, threads=own_threads()) as engine,
        options.progress() as progress,
    ):
        task = progress.add_task("events", total=source.count(None, to_ms))
        rows = score(
            source,
            file,
            engine=engine,
            keys=keys,
            from_ms=from_ms,
            to_ms=to_ms,
            report=lambda number: progress.update(task, completed=number),
        )
        model = engine.model
    seconds = time.monotonic() - begin
    if as_json:
        named = {"name": model.name, "version": model.version}
        result = {"out": str(file), "rows": rows, "seconds": round(seconds, 1), "model": named}
        rows_of = {} if rejects is None else {"table": account(to_ms) | {"rejected": rejects.document()}}
        say_json(result | rows_of)
        return
    line(f"{rows:,} scores of {model.name} {model.version} in {file}, {seconds:.0f} s")
    if counted := options.counts(account(to_ms)):
        line(f"  {counted}")
