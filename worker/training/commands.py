"""`intent train` and `score ga360`: what they take and how they say what came of it."""

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker import options
from worker.terminal import out

if TYPE_CHECKING:
    from worker.shop.columns import Rejects
    from worker.shop.source import Source
    from worker.training.loop import Progress as TrainingProgress
    from worker.training.score import Keys


score_app = typer.Typer(
    help="Score a sample offline, through the worker's own window and engine.", no_args_is_help=True
)

_Data = Annotated[
    Path, typer.Option("--data", help="Folder of the GA360 sample; or, with --map, a CSV or Parquet table of events.")
]
_Map = Annotated[Path | None, typer.Option("--map", help="TOML file that says how the table's columns become events.")]
_Json = Annotated[bool, typer.Option("--json", help="For programs: the result as JSON on standard output.")]
_Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: CUDA where there is one.")
]
_Bundle = Annotated[Path | None, typer.Option(help="Bundle folder; default: the one shipped with the package.")]
_FURTHER = "Training a bundle further"
_UNPROVEN = "Unproven on the sample, therefore off"
_Runs = Annotated[Path, typer.Option(help="Keeps a folder for each run, and the folded windows for the next.")]


def train(
    context: typer.Context,
    data: _Data,
    bundle: Annotated[Path, typer.Option("--out", help="Folder for the bundle; its files are replaced.")],
    *,
    mapping: _Map = None,
    name: Annotated[str, typer.Option(help="The model's name in scores and metrics.")] = "shop-tiny",
    windows: Annotated[
        int, typer.Option(min=1_000, help="Windows to draw, repeats included; early stopping may use fewer.")
    ] = 40_000,
    size: Annotated[
        Literal["tiny", "mini", "small", "base"],
        typer.Option(help="Of the BERT: 2 x 128, 4 x 256, 4 x 512 or 12 x 768 layers x width."),
    ] = "tiny",
    pretrain_windows: Annotated[
        int, typer.Option(min=0, help="Windows to guess hidden events of, before any label is seen; 0: none.")
    ] = 0,
    head_windows: Annotated[
        int,
        typer.Option(min=0, help="Windows that each member of the head sees first: aggregates and context, no events."),
    ] = 300_000,
    teacher: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of a label that is the answer of trees that never saw the visitor."),
    ] = 0.5,
    members: Annotated[int, typer.Option(min=1, max=32, help="Small networks in the head that see the BERT.")] = 4,
    aside: Annotated[
        int, typer.Option(min=0, max=32, help="More of them, that see aggregates and context only; all are averaged.")
    ] = 4,
    even: Annotated[
        float,
        typer.Option(min=0, max=1, help="Draw every instant as often (0), every session as often (1), or between."),
    ] = 0.0,
    crop: Annotated[
        float, typer.Option(min=0, max=1, rich_help_panel=_UNPROVEN, help="Share of windows cut to newer events.")
    ] = 0.0,
    hide: Annotated[
        float, typer.Option(min=0, max=0.9, rich_help_panel=_UNPROVEN, help="Share of events the BERT does not see.")
    ] = 0.0,
    stretch: Annotated[
        float, typer.Option(min=0, max=2, rich_help_panel=_UNPROVEN, help="Deviation of a window's factor of time.")
    ] = 0.0,
    focal: Annotated[
        float, typer.Option(min=0, max=5, rich_help_panel=_UNPROVEN, help="Focal loss: how much easy ones count less.")
    ] = 0.0,
    positive: Annotated[
        float, typer.Option(min=0.1, max=100, rich_help_panel=_UNPROVEN, help="Weight of an instant before a purchase.")
    ] = 1.0,
    adversary: Annotated[
        float, typer.Option(min=0, max=10, rich_help_panel=_UNPROVEN, help="Radius of adversarial embeddings (FGM).")
    ] = 0.0,
    average: Annotated[
        float, typer.Option(min=0, max=0.99999, rich_help_panel=_UNPROVEN, help="Decay of the weights' moving average.")
    ] = 0.0,
    refit: Annotated[
        bool,
        typer.Option(help="Repeat the chosen run on all that ends before the test slice: fresher, twice the time."),
    ] = True,
    test: Annotated[bool, typer.Option(help="Score the test slice, at the very end.")] = True,
    resume: Annotated[
        Path | None, typer.Option(help="Folder below --runs of a run of this command that was interrupted.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=1e-6, max=1e-1, help="The head's, at its highest.")] = 1e-3,
    bert_rate: Annotated[
        float, typer.Option(min=0, max=10, help="The BERT's learning rate, as a multiple of the head's.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    precision: Annotated[
        Literal["auto", "bf16", "float32"], typer.Option(help="Of training; auto: bf16 where the processor has it.")
    ] = "auto",
    device: _Device = "auto",
    draws: Annotated[int, typer.Option(min=10, max=10_000, help="Resamples of the visitors for the intervals.")] = 200,
    runs: _Runs = Path("runs"),
    former: Annotated[
        Path | None,
        typer.Option(
            "--from", rich_help_panel=_FURTHER, help="Folder of a bundle to train further, in place of a fresh network."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_FURTHER,
            help="Labels that became known after this day (2016-09-17) or time are new; older ones are replayed. "
            "Default: all are new.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(rich_help_panel=_FURTHER, help="The last of them. Default: where the test slice begins."),
    ] = None,
    peft: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_FURTHER,
            help="Train few parameters, and merge them: lora, adalora, ia3, or head for the fusion head alone. "
            "Default: all parameters.",
        ),
    ] = None,
    head: Annotated[
        bool, typer.Option(rich_help_panel=_FURTHER, help="With --peft: whether the fusion head learns along.")
    ] = True,
    replay: Annotated[
        float, typer.Option(min=0, max=0.9, rich_help_panel=_FURTHER, help="Share of older instants in a step.")
    ] = 0.5,
    bound: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_FURTHER,
            help="Share by which the log loss of older instants may grow; a checkpoint beyond it is not taken.",
        ),
    ] = 0.02,
    as_json: _Json = False,
) -> None:
    """Train a bundle from recorded events: windows, fine-tuning, calibration, reason codes, evaluation, model card.

    Split by time as the model card says; the checkpoint and the calibration are chosen on two parts of validation, and
    the test slice is scored once at the end. The refit repeats what was chosen on later data, and doubles the time. A
    run that was interrupted goes on with the same command and --resume.

    With --from it continues a bundle on newer labels, few steps at a low rate (--windows 20480, and the --learning-rate
    that suits --peft, unless given). The successor is compared with the former on visitors that taught it nothing; it
    carries the differences, which `intent model promote` shows. The test slice is not read.

    Examples: `intent train --data ../shared/data/ga360 --out my-bundle`;
    `intent train --data ../shared/data/ga360 --from my-bundle --since 2016-09-17 --out newer --peft lora`

    One's own shop, from a table: `intent train --data events.csv --map mapping.toml --out my-bundle`
    """
    from dataclasses import replace

    from worker.scoring.model import SIZES
    from worker.shop.source import opened
    from worker.training import further
    from worker.training.finetune import Plan
    from worker.training.train import train as run

    where = options.place(device)
    bf16 = precision == "bf16" or (precision == "auto" and _has_bf16(where))
    given = _given(context)
    further.check(given, further=former is not None)
    if former is not None:
        source = opened(data, mapping)
        asked = further.change(
            source,
            since,
            until,
            peft,
            head=head,
            windows=windows if "windows" in given else None,
            learning_rate=learning_rate if "learning_rate" in given else None,
            replay=replay,
            bound=bound,
        )
        plan = Plan(seed=seed, bf16=bf16, device=where)
        with options.progress() as progress:
            done = further.train_further(
                source, former, bundle, asked=asked, plan=plan, runs=runs, draws=draws, progress=progress
            )
        further.show(done, out, as_json=as_json)
        return
    plan = Plan(
        seed=seed,
        teacher=teacher,
        pretrain_windows=pretrain_windows,
        head_windows=head_windows,
        windows=windows,
        even=even,
        crop=crop,
        hide=hide,
        stretch=stretch,
        focal=focal,
        positive=positive,
        adversary=adversary,
        average=average,
        bert_rate=bert_rate,
        refit=refit,
        learning_rate=learning_rate,
        bf16=bf16,
        device=where,
        shape=replace(SIZES[size], members=members, aside=aside, apart=True),
    )
    with options.progress() as progress:
        task = progress.add_task("training", total=windows)

        def report(step: "TrainingProgress") -> None:
            described = f"{step.stage}, loss {step.loss:.3f}"
            progress.update(task, completed=step.windows, total=step.of_windows, description=described)
            if step.validation is not None:
                found = step.validation
                progress.console.print(
                    f"  {step.windows:,} windows, {step.seconds:.0f} s: validation AUC {found['auc_24h']:.4f}, "
                    f"AP {found['ap_24h']:.4f} at 24 h, score {found['score']:.4f}",
                    highlight=False,
                )

        found = run(
            data,
            bundle,
            name=name,
            plan=plan,
            runs=runs,
            draws=draws,
            command=shlex.join(["intent", *sys.argv[1:]]),
            say=lambda stage: progress.console.print(stage, highlight=False),
            report=report,
            resume=resume,
            test=test,
            mapping=mapping,
        )
    from worker.training import evaluate as evaluation

    if as_json:
        result = {"bundle": str(found.bundle), "name": name, "version": found.version, "run": str(found.folder)}
        out.print_json(json.dumps(result | {"test": evaluation.document(found.test)}))
        return
    out.print(evaluation.table(found.validation, title="validation slice (chosen on it: optimistic)"))
    if found.test:
        out.print(evaluation.table(found.test, title="test slice"))
    out.print(f"bundle {name} {found.version} in {found.bundle}; the run's history in {found.folder}", highlight=False)


@score_app.command("ga360")
def score_ga360(
    folder: Annotated[Path, typer.Argument(help="Holds hits.parquet and sessions.parquet of the GA360 sample.")],
    *,
    file: Annotated[Path, typer.Option("--out", help="Parquet file for the scores; replaced when it exists.")],
    from_: Annotated[str | None, typer.Option("--from", help="First day (2016-10-01) or time; default: all.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The end, itself not included.")] = None,
    bundle: _Bundle = None,
    device: _Device = "auto",
    as_json: _Json = False,
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
    table: Annotated[Path, typer.Argument(help="CSV or Parquet file of a shop's events.")],
    mapping: Annotated[Path, typer.Option("--map", help="TOML file that says how its columns become events.")],
    *,
    file: Annotated[Path, typer.Option("--out", help="Parquet file for the scores; replaced when it exists.")],
    from_: Annotated[str | None, typer.Option("--from", help="First day or time (RFC 3339); default: all.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The end, itself not included.")] = None,
    bundle: _Bundle = None,
    device: _Device = "auto",
    as_json: _Json = False,
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
    import os

    from worker.scoring.bundle import load
    from worker.scoring.engine import Engine
    from worker.training.score import score

    from_ms, to_ms = options.time_ms(source, from_, "--from"), options.time_ms(source, to, "--to")
    if file.is_dir() or not file.parent.is_dir():
        raise typer.BadParameter(f"{file} is no file in an existing folder", param_hint="--out")
    begin = time.monotonic()
    with (
        Engine(load(bundle), device=device, threads=len(os.sched_getaffinity(0))) as engine,
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
        result = {"out": str(file), "rows": rows, "seconds": round(seconds, 1), "model": [model.name, model.version]}
        rows_of = {} if rejects is None else {"table": account(to_ms) | {"rejected": rejects.document()}}
        out.print_json(json.dumps(result | rows_of))
        return
    said = f"{rows:,} scores of {model.name} {model.version} in {file}, {seconds:.0f} s"
    out.print(said, highlight=False, markup=False, soft_wrap=True)
    if counted := options.counts(account(to_ms)):
        out.print(f"  {counted}", highlight=False)


def _given(context: typer.Context) -> list[str]:
    """The parameters that are on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _has_bf16(device: str) -> bool:
    import torch

    return device == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
