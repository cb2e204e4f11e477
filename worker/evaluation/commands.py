"""`intent evaluate`: what it takes, and how it says what was found."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from worker import options
from worker.errors import IntentError
from worker.terminal import err, line, out, say_json
from worker.whole import written


def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            "--data", exists=True, help="Folder of the GA360 sample; or, with --map, a CSV or Parquet table of events."
        ),
    ],
    *,
    mapping: options.Map = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle folder; default: the one shipped with the package.")
    ] = None,
    which: Annotated[Literal["validation", "test"], typer.Option("--slice", help="Of the data.")] = "test",
    rivals: Annotated[
        Literal["none", "trees", "all"],
        typer.Option(
            help="Measured beside the bundle. trees: a rule and LightGBM on the same information; all: a BERT on "
            "events alone as well. Trained once, kept under --runs."
        ),
    ] = "trees",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", callback=options.file, help="Write the whole report there, as one page."),
    ] = None,
    attach: Annotated[
        bool,
        typer.Option(
            "--attach",
            help="Write the numbers (metrics.json) and the reference for percentiles (percentiles.json) into the "
            "folder that --bundle names. The bundle's version changes.",
        ),
    ] = False,
    device: options.Device = "auto",
    draws: Annotated[int, typer.Option(min=10, max=10_000, help="Resamples of the visitors for the intervals.")] = 200,
    runs: Annotated[
        Path, typer.Option(callback=options.folder, help="Its `cache` keeps the folded windows and the rivals.")
    ] = Path("runs"),
    as_json: options.Json = False,
) -> None:
    """Measure a bundle on a slice of the data, beside what one could have without it.

    ROC-AUC, average precision, log loss, Brier score, calibration error and lift at 1, 5 and 10 %: for each horizon,
    at every instant, at one decision point a session, by event number, channel, device, new or returning. The rivals
    learn from what the bundle learnt from, and are tuned and calibrated where it was: of a refitted bundle, all that
    ends before the test slice but for the visitors that calibrate it, who are its validation; of one by `train --again`
    the test slice too, on which it is not measured. A bundle of another shop has learnt nothing of this data, and its
    rivals have. Intervals of 95 % resample visitors; a difference to a rival is paired. A difference whose interval
    holds 0 may be chance. Targets are the shipped bundle's.

    Choose on the validation slice; the test slice is for the model that is published, once.

    Examples: `intent evaluate --data ../shared/data/ga360 --slice validation --report report.html`;
    `intent evaluate --data ../shared/data/ga360 --bundle my-bundle --rivals none --json`
    """
    _refuse(report, rivals, bundle=bundle, attach=attach)
    from worker.evaluation import report as reports
    from worker.evaluation.run import attach as attach_to
    from worker.evaluation.run import evaluate as run
    from worker.scoring.bundle import load
    from worker.scoring.device import Device
    from worker.shop.source import opened
    from worker.training.labels import untested
    from worker.training.succession import former

    loaded = load(bundle)
    if attach and (before := former(loaded)) is not None:
        raise IntentError(
            f"--attach would replace what `intent model promote` compares: {loaded.name} {loaded.version} carries its "
            f"differences from {before}"
        )
    place = Device.named(device).place
    source = opened(data, mapping)
    if which == "test" and (short := untested(source.splits)):
        line(short, to=err)
    with err.status(f"reading {data}") as status:
        found = run(
            loaded,
            source,
            which=which,
            against=rivals,
            draws=draws,
            cache=runs / "cache",
            device=str(place),
            report=status.update,
            say=partial(line, to=err),
        )
        document = reports.document(found)
        if attach and bundle is not None:
            status.update(f"attaching numbers and percentiles to {bundle}")
            version = attach_to(
                bundle, loaded, source, reports.metrics(document), cache=runs / "cache", device=str(place)
            )
            document |= {"version": version}
        if report is not None:
            status.update(f"drawing {report}")
            _write(report, reports.page(document))
    if as_json:
        say_json(document)
        return
    line(f"{document['name']} {document['version']}, {which} slice")
    for table in reports.tables(document):
        out.print(table)
    if report is not None:
        line(f"all of it, with plots: {report}")


def _refuse(report: Path | None, rivals: str, *, bundle: Path | None, attach: bool) -> None:
    """What would fail only after minutes of work."""
    if attach and bundle is None:
        raise typer.BadParameter("name the folder to write to with --bundle", param_hint="--attach")
    needed = {"lightgbm": f"--rivals {rivals}" if rivals != "none" else None}
    needed |= dict.fromkeys(("matplotlib", "jinja2"), "--report" if report is not None else None)
    for package, option in needed.items():
        if option is not None and find_spec(package) is None:
            raise IntentError(f"{option} needs the package {package}; install intent-worker[training]")


def _write(path: Path, text: str) -> None:
    try:
        with written(path) as beside:
            beside.write_text(text)
    except OSError as error:
        raise IntentError(f"{path} (--report) cannot be written: {error.strerror}") from None
