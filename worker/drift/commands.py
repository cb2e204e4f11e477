"""`intent drift`: has traffic moved away from what the model knows? A topic, recorded events, or a new reference."""

import asyncio
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker import options
from worker.terminal import err, line, out, say_json

if TYPE_CHECKING:
    from worker.drift.report import Report
    from worker.scoring.bundle import Bundle


drift_app = typer.Typer(
    no_args_is_help=True,
    help="Watch whether traffic, scores and calibration still are what the model was trained on.",
)

_Path = Annotated[
    Path,
    typer.Argument(exists=True, help="Folder of the GA360 sample; or, with --map, a CSV or Parquet table of events."),
]
_Bundle = Annotated[Path | None, typer.Option(help="Bundle folder; default: what a worker would load.")]

_EVENTS = 8192  # scored at a time


@drift_app.command("data")
def data(
    path: _Path,
    *,
    mapping: options.Map = None,
    from_: options.From = None,
    to: options.To = None,
    bundle: _Bundle = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Compare recorded events with what a model was trained on. Exit code 3 where something is to be acted on.

    PSI below 0.1 is fine, up to 0.25 to be watched, above to be acted on; "by chance" is what PSI reaches in one of a
    hundred samples of this size without any drift. Scores whose horizon is over are compared with what happened. What
    lies before --from is folded, so that windows are as full as they were live. Exit code 1 where there are too few
    events to compare.

    Example: `intent drift data ../shared/data/ga360 --from 2016-09-24 --to 2016-10-01`
    """
    from worker.drift.report import Watch
    from worker.scoring.engine import Engine, own_threads
    from worker.shop.source import opened
    from worker.training.windows import fold_all

    source = opened(path, mapping)
    from_ms, to_ms = options.span(source, from_, to)
    with (
        Engine(partial(_loaded, bundle), device=device, threads=own_threads()) as engine,
        options.progress() as progress,
    ):
        watch = Watch(engine.bundle)
        task = progress.add_task("events", total=source.count(None, to_ms))
        folded = fold_all(source.events(None, to_ms))
        while part := list(islice(folded, _EVENTS)):
            progress.advance(task, len(part))
            wanted = [one for one in part if from_ms is None or one[0].time_ms >= from_ms]
            if wanted:
                events, windows = [event for event, _ in wanted], [window for _, window in wanted]
                watch.add(events, windows, engine.score_now(windows).intent, [source.scored(event) for event in events])
    if lost := source.losses():
        line(lost, to=err)
    _say(watch.report(source.name), as_json=as_json)


@drift_app.command("topic")
def topic(
    *,
    name: options.Topic = None,
    begin: Annotated[
        str, typer.Option("--from", help="First record: earliest, a date, a time with offset, partition:offset[,...].")
    ] = "earliest",
    end: Annotated[str, typer.Option("--to", help="End, exclusive: latest (as of now), or as --from.")] = "latest",
    warmup: Annotated[str, typer.Option(help="How much before --from is folded first: 0, 12h, 30d, ...")] = "30d",
    bundle: _Bundle = None,
    device: options.SetDevice = None,
    as_json: options.Json = False,
) -> None:
    """Compare a stretch of a topic's history with what the model was trained on, through the worker's own pipeline.

    Reads as `intent replay` does: committed records, no consumer group, nothing written. Times are those of the
    records, when they arrived in Kafka. Exit code 3 where something is to be acted on, 1 where there is nothing to
    compare: a scheduler that runs it each morning has its alarm. `intent drift data --help` tells what PSI is.

    Example: `intent drift topic --from 2024-05-01 --to 2024-05-08`
    """
    from worker.config import load
    from worker.errors import IntentError
    from worker.replay.lookup import look_up
    from worker.replay.plan import parse_bound, parse_duration

    settings = load({"model": {"device": device} if device else {}, "topics": {} if name is None else {"events": name}})
    source = settings.topics.events
    with err.status("asking for offsets"):  # before the model is loaded: what is wrong is told at once
        plan = look_up(
            settings.kafka,
            source,
            parse_bound(begin, option="--from"),
            parse_bound(end, option="--to"),
            warmup_ms=parse_duration(warmup, option="--warmup"),
            named=options.topic(name),
        )
    if not plan.stretches:
        raise IntentError(
            f"there is nothing to compare: {source} holds no record from --from {begin} to --to {end}; "
            "times are those at which records arrived in Kafka"
        )

    from worker.drift.report import Watch
    from worker.drift.topic import watched
    from worker.scoring.engine import Engine

    with err.status("loading the model"):
        engine = Engine.configured(partial(_loaded, bundle), settings.model)
    with engine, options.progress() as progress:
        watch = Watch(engine.bundle)
        tally = asyncio.run(watched(settings, plan, watch, engine, progress))
    _say(watch.report(f"{source}, {begin} to {end}", fates=tally.fates), as_json=as_json)


@drift_app.command("reference")
def reference(
    path: _Path,
    *,
    folder: Annotated[
        Path, typer.Option("--out", callback=options.folder, help="Folder for the bundle with its reference; replaced.")
    ],
    mapping: options.Map = None,
    from_: Annotated[str | None, typer.Option("--from", help="First day or time; default: the validation's.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The end, itself not included; default: the test's.")] = None,
    bundle: _Bundle = None,
    runs: Annotated[
        Path, typer.Option(callback=options.folder, help="Keeps the folded windows for the next run.")
    ] = Path("runs"),
    as_json: options.Json = False,
) -> None:
    """Give a bundle a reference: the counts that drift is measured against. `intent train` makes one by itself.

    The result is the same model as a version of its own. Default: the time between training and test, which
    nothing but a refit has learnt from. For a shop that has changed for good, a later time.

    Example: `intent drift reference ../shared/data/ga360 --out my-bundle`
    """
    import numpy as np

    from worker.drift.learn import learn
    from worker.errors import IntentError
    from worker.scoring import bundle as bundles
    from worker.shop.source import opened
    from worker.training.windows import build

    source = opened(path, mapping)
    from_ms, to_ms = options.span(source, from_, to)
    loaded = _loaded(bundle)
    with err.status(f"folding and scoring {source.name}"):
        events, windows = build(source, runs / "cache", say=partial(line, to=err))
        start = source.splits.validation if from_ms is None else from_ms
        end = source.splits.test if to_ms is None else to_ms
        places = np.flatnonzero((events.time_ms >= start) & (events.time_ms < end))
        if not len(places):
            raise IntentError(
                f"{source.name} has no events between --from and --to, by default its validation slice; name other days"
            )
        about = f"{from_ or 'validation slice'}{f' to {to}' if to else ''}"
        made = replace(loaded, drift=learn(loaded, windows, places, events.visitor[places], about=about))
        version = bundles.save(folder, made)
    assert made.drift is not None
    result = {"bundle": str(folder), "name": made.name, "version": version, "windows": made.drift.windows}
    if as_json:
        say_json(result)
        return
    line(f"{made.name} {version} in {folder}: {len(made.drift.features)} features of {made.drift.windows:,} windows")


def _loaded(folder: Path | None) -> "Bundle":
    """A folder's, or what a worker would load."""
    from worker.config import load
    from worker.registry.source import configured
    from worker.scoring import bundle as bundles

    return bundles.load(folder) if folder is not None else configured(load().model)[1]()


def _say(report: "Report", *, as_json: bool) -> None:
    if not report.events:
        from worker.errors import IntentError

        found = ", ".join(f"{fate} {count:,}" for fate, count in report.records.items()) or "none lies in it"
        raise IntentError(f"there is nothing to compare: {report.what} has no event that is scored ({found})")
    if as_json:
        say_json(report.document())
    else:
        out.print(report.table(), highlight=False)
    report.check()
