"""`intent train`: what it takes and how it says what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker import options
from worker.terminal import line, out, say_json

if TYPE_CHECKING:
    from worker.training.loop import Progress as TrainingProgress


def _named(name: str) -> str:
    """What a store would refuse is refused before the work."""
    from worker.errors import SettingError
    from worker.registry.store import named

    try:
        return named(name)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from None


def _text(notes: Path) -> str:
    try:
        return notes.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{notes} is not in UTF-8 ({error})", param_hint="--notes") from None


_Data = Annotated[
    Path,
    typer.Option(
        "--data", exists=True, help="Folder of the GA360 sample; or, with --map, a CSV or Parquet table of events."
    ),
]
_AGAIN = "Training a bundle again"
_FURTHER = "Training a bundle further"
_UNPROVEN = "Unproven on the sample, therefore off"
_Runs = Annotated[
    Path,
    typer.Option(callback=options.folder, help="Keeps a folder for each run, and the folded windows for the next."),
]


def train(
    context: typer.Context,
    data: _Data,
    bundle: Annotated[
        Path, typer.Option("--out", callback=options.folder, help="Folder for the bundle; its files are replaced.")
    ],
    *,
    mapping: options.Map = None,
    name: Annotated[
        str,
        typer.Option(
            callback=_named,
            help="The model's name in scores, metrics and the store; with --again or --from, by default theirs.",
        ),
    ] = "shop-tiny",
    windows: Annotated[
        int, typer.Option(min=1_000, help="Windows to draw, repeats included; early stopping may use fewer.")
    ] = 240_000,
    size: Annotated[
        Literal["tiny", "mini", "small", "base"],
        typer.Option(help="Of the BERT: 2 x 128, 4 x 256, 4 x 512 or 12 x 768 layers x width."),
    ] = "tiny",
    pretrain_windows: Annotated[
        int,
        typer.Option(
            min=0,
            rich_help_panel=_UNPROVEN,
            help="Windows to guess hidden events of, before any label is seen; 0: none.",
        ),
    ] = 0,
    head_windows: Annotated[
        int,
        typer.Option(min=0, help="Windows that each member of the head sees first: aggregates and context, no events."),
    ] = 1_200_000,
    teacher: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of a label that is the answer of trees that never saw the visitor."),
    ] = 0.5,
    auxiliary: Annotated[
        float,
        typer.Option(min=0, max=10, help="Weight of learning whether a visitor views an item and comes back; 0: none."),
    ] = 0.6,
    members: Annotated[int, typer.Option(min=1, max=32, help="Small networks in the head that see the BERT.")] = 4,
    aside: Annotated[
        int, typer.Option(min=0, max=32, help="More of them, that see aggregates and context only; all are averaged.")
    ] = 4,
    even: Annotated[
        float,
        typer.Option(min=0, max=1, help="Draw every instant as often (0), every session as often (1), or between."),
    ] = 0.0,
    half_life_days: Annotated[
        float,
        typer.Option(min=0, max=3650, help="Draw an instant half as often for each so many days of age; 0: all alike."),
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
    notes: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Markdown that the card ends with.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=1e-6, max=1e-1, help="At its highest.")] = 1e-3,
    settled_rate: Annotated[
        float,
        typer.Option(
            min=0,
            max=10,
            help="Multiple of the learning rate for the members while the BERT learns, after --head-windows.",
        ),
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    precision: Annotated[
        Literal["auto", "bf16", "float32"], typer.Option(help="Of training; auto: bf16 where the processor has it.")
    ] = "auto",
    device: options.Device = "auto",
    draws: Annotated[int, typer.Option(min=10, max=10_000, help="Resamples of the visitors for the intervals.")] = 200,
    runs: _Runs = Path("runs"),
    again: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_AGAIN,
            help="Folder of a bundle whose recipe to repeat, from scratch, on all the data up to its end.",
        ),
    ] = None,
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
    as_json: options.Json = False,
) -> None:
    """Train a bundle from recorded events: windows, fine-tuning, calibration, reason codes, evaluation, model card.

    Split by time as the model card says; the checkpoint and the calibration are chosen on two parts of validation, and
    the test slice is scored once at the end. The refit repeats what was chosen on later data, and doubles the time: the
    sample's million events take 20 to 60 minutes on two cores. A run that was interrupted goes on with the same command
    and --resume.

    With --again it repeats a bundle's recipe on all the data, the test slice included, in half the time, and chooses
    nothing: what serves should know the newest weeks, once it is measured without them. With --from it continues a
    bundle on newer labels, few steps at a low rate (--windows 20480, and the --learning-rate that suits --peft, unless
    given); the test slice is not read. Either successor is compared with the former on visitors that taught it
    nothing, and carries the differences, which `intent model promote` shows.

    Examples: `intent train --data ../shared/data/ga360 --out my-bundle`;
    `intent train --data ../shared/data/ga360 --again my-bundle --out served`;
    `intent train --data ../shared/data/ga360 --from my-bundle --since 2016-09-17 --out newer --peft lora`

    One's own shop, from a table: `intent train --data events.csv --map mapping.toml --name my-shop --out my-bundle`
    """
    from dataclasses import replace

    from worker.scoring.head import SIZES
    from worker.shop.source import opened
    from worker.training import further
    from worker.training.again import Place
    from worker.training.finetune import Plan
    from worker.training.train import train as run

    where = options.place(device)
    bf16 = precision == "bf16" or (precision == "auto" and _has_bf16(where))
    given = _given(context)
    further.check(given)
    renamed = name if "name" in given else None
    if again is not None:
        with options.progress() as progress:
            done = further.train_again(
                opened(data, mapping),
                again,
                bundle,
                name=renamed,
                place=Place(device=where, bf16=bf16),
                runs=runs,
                draws=draws,
                resume=resume,
                progress=progress,
            )
        further.show(done, as_json=as_json)
        return
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
                source, former, bundle, name=renamed, asked=asked, plan=plan, runs=runs, draws=draws, progress=progress
            )
        further.show(done, as_json=as_json)
        return
    written = "" if notes is None else _text(notes)
    plan = Plan(
        seed=seed,
        teacher=teacher,
        pretrain_windows=pretrain_windows,
        head_windows=head_windows,
        windows=windows,
        auxiliary=auxiliary,
        even=even,
        half_life_days=half_life_days,
        crop=crop,
        hide=hide,
        stretch=stretch,
        focal=focal,
        positive=positive,
        adversary=adversary,
        average=average,
        settled_rate=settled_rate,
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
                line(
                    f"  {step.windows:,} windows, {step.seconds:.0f} s: validation AUC {found['auc_24h']:.4f}, "
                    f"AP {found['ap_24h']:.4f} at 24 h, score {found['score']:.4f}",
                    to=progress.console,
                )

        found = run(
            data,
            bundle,
            name=name,
            plan=plan,
            runs=runs,
            draws=draws,
            command=options.command_line(),
            say=lambda stage: line(stage, to=progress.console),
            report=report,
            resume=resume,
            test=test,
            mapping=mapping,
            notes=written,
        )
    from worker.training import evaluate as evaluation

    if as_json:
        result = {"bundle": str(found.bundle), "name": name, "version": found.version, "run": str(found.folder)}
        say_json(result | {"test": evaluation.document(found.test)})
        return
    titles = {"validation slice (chosen on it: optimistic)": found.validation, "test slice": found.test}
    for title, lines in titles.items():
        if lines:
            out.print(evaluation.table(lines, title=title))
        else:
            line(f"{title}\n{evaluation.UNMEASURED}")
    line(f"bundle {name} {found.version} in {found.bundle}; the run's history in {found.folder}")


def _given(context: typer.Context) -> list[str]:
    """The parameters that are on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _has_bf16(device: str) -> bool:
    import torch

    return device == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
