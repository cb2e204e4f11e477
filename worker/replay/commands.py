"""`intent replay`: what it takes and how it says what came of it. The work is done next door."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker import options
from worker.terminal import err, out, say_json

if TYPE_CHECKING:
    from worker.replay.plan import Plan
    from worker.replay.report import Report
    from worker.settings import Settings


def replay(
    *,
    file: options.Scores,
    topic: options.Topic = None,
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            help="First record: earliest, a date (midnight UTC), a time with offset, or partition:offset[,...].",
        ),
    ] = "earliest",
    end: Annotated[str, typer.Option("--to", help="End, exclusive: latest (as of now), or as --from.")] = "latest",
    warmup: Annotated[
        str, typer.Option(help="How much before --from is folded into windows without being scored: 0, 12h, 30d, ...")
    ] = "30d",
    bundle: Annotated[Path | None, typer.Option(help="Bundle folder; default: what a worker would load.")] = None,
    device: options.SetDevice = None,
    mode: Annotated[Literal["every", "latest"] | None, typer.Option(help="Default: the setting worker.mode.")] = None,
    state: Annotated[
        Literal["memory", "disk"], typer.Option(help="Where windows live meanwhile; disk for many millions of users.")
    ] = "memory",
    as_json: options.Json = False,
) -> None:
    """Score a stretch of a topic's history with the live worker's own code.

    Reads committed records with no consumer group and writes nothing to Kafka: running workers do not notice. The
    scores go to one Parquet file, a row each, under the same score_id, window digest and values that the live worker
    gives them; a report tells what became of every record.

    Times are those of the records, when they arrived in Kafka. What lies before --from by at most --warmup is folded
    first, so that windows are as full as they were live: 30 days is all that a window can hold. Where the topic's
    retention has deleted some of that, windows may hold less, and the report names the partitions (partitions_cut).
    Exit code 1 where the range holds no record; a file that was at --out then stays.

    A day and a half: `intent replay --from 2017-08-01 --to 2017-08-02T12:00:00Z --out days.parquet`

    Two hundred offsets: `intent replay --from 0:1200,1:900 --to 0:1300,1:1000 --warmup 0 --out few.parquet`
    """
    from worker.config import load
    from worker.errors import IntentError
    from worker.kafka import topics
    from worker.replay.lookup import look_up
    from worker.replay.plan import LATEST, parse_bound, parse_duration

    model: dict[str, object] = {} if device is None else {"device": device}
    if bundle is not None:  # in place of whatever the settings have
        model |= {"bundle": bundle, "store": None, "name": None, "shadow_share": 0}
    settings = load(
        {
            "model": model,
            "worker": {"mode": mode} if mode else {},
            "topics": {} if topic is None else {"events": topic},
        }
    )
    bounds = parse_bound(begin, option="--from"), parse_bound(end, option="--to")
    warmup_ms = parse_duration(warmup, option="--warmup")
    look = partial(look_up, settings.kafka, settings.topics.events, named=options.topic(topic))
    with err.status("asking for offsets"):
        look(LATEST, LATEST, warmup_ms=0)  # only whether it is there: for its id one that is not would be waited for
        topic_id = topics.events_id(settings)  # before the offsets, which may be of none that came before it
        plan = look(*bounds, warmup_ms=warmup_ms)
    if not plan.stretches:  # before anything takes the place of a file that was there
        raise IntentError(
            f"there is nothing to score: {plan.topic} holds no record from --from {begin} to --to {end}; "
            "times are those at which records arrived in Kafka"
        )
    report = _run(settings, plan, topic_id, file=file, state=state)
    if as_json:
        say_json(report.document())
    else:
        out.print(report.table())
    report.check()


def _run(
    settings: "Settings", plan: "Plan", topic_id: str, *, file: Path, state: Literal["memory", "disk"]
) -> "Report":
    """`topic_id` is that of the topic whose offsets the plan has."""
    import asyncio

    from worker.errors import IntentError
    from worker.kafka import topics
    from worker.registry.source import configured
    from worker.replay.report import Report, Tally
    from worker.replay.run import play
    from worker.replay.sink import ParquetSink
    from worker.replay.tape import reader
    from worker.scoring.engine import Engine
    from worker.window import Rules

    with err.status("loading the model"):
        engine = Engine.configured(configured(settings.model)[1], settings.model)
    model, mode = engine.model, settings.worker.mode
    rules = Rules.of_seconds(
        max_lateness_s=settings.window.max_lateness_s, expire_after_s=settings.window.expire_after_s
    )
    tally = Tally()
    origin = {"topic": plan.topic, "mode": mode, "model": model.name, "version": model.version}
    began = time.perf_counter()
    try:
        with (
            ParquetSink(file, topic=plan.topic, origin=origin) as sink,
            options.progress() as progress,
        ):
            bar = progress.add_task("offsets", total=plan.offsets)
            asyncio.run(
                play(
                    plan,
                    consumer=lambda: reader(settings.kafka),
                    engine=engine,
                    sink=sink,
                    tally=tally,
                    rules=rules,
                    mode=mode,
                    state=state,
                    max_batch_events=settings.worker.max_batch_events,
                    advanced=lambda offsets: progress.advance(bar, offsets),
                )
            )
            # A client reads on in a topic made anew, where it has such offsets. Asked before the sink leaves a file.
            if topics.events_id(settings) != topic_id:
                raise IntentError(
                    f"the topic {plan.topic} was deleted and created anew while it was read, so some scores are of the "
                    "former and some of the new one; none is written, run the same command again"
                )
    finally:
        engine.close()
    return Report(
        plan=plan,
        mode=mode,
        model=model,
        out=file,
        rows=sink.rows,
        tally=tally,
        elapsed_s=time.perf_counter() - began,
    )
