"""`intent explain` and `intent explain check`: what they take and how they say what came of it."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker import options
from worker.terminal import err, line, out, say_json
from worker.whole import written

if TYPE_CHECKING:
    from worker.explain.story import Story


explain_app = typer.Typer(invoke_without_command=True)

_HORIZONS = {"30m": "purchase_30m", "24h": "purchase_24h", "7d": "purchase_7d"}

_Bundle = Annotated[Path | None, typer.Option(help="Bundle folder; default: the one shipped with the package.")]
_Horizon = Annotated[Literal["30m", "24h", "7d"], typer.Option(help="Which of the three scores.")]


@explain_app.callback()
def explain(
    context: typer.Context,
    *,
    events: Annotated[
        Path | None,
        typer.Option("--events", metavar="FILE", help="One user's events, JSON lines as in the topic; - reads them."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            exists=True,
            help="Or a visitor of the GA360 sample: the folder with its tables; or, with --map, of a CSV or Parquet "
            "table of events.",
        ),
    ] = None,
    mapping: options.Map = None,
    visitor: Annotated[str | None, typer.Option(help="The visitor, or which of the file's users.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Explain the score at this time (2016-09-27T18:00:00Z); default: the last.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Of those events only the last so many.")] = None,
    horizon: _Horizon = "24h",
    method: Annotated[
        Literal["both", "occlusion", "gradients"], typer.Option(help="gradients: integrated gradients.")
    ] = "both",
    bundle: _Bundle = None,
    device: options.Device = "auto",
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write it as one self-contained page, with a plot.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Why one score is what it is: what each event, aggregate and part of the context contributes to its logit.

    The events are folded as the worker folds them; the window after the last one is explained. *Occlusion* leaves each
    part out and scores again. *Integrated gradients* follow the score from a window that says nothing to this one.
    Neither reads attention weights. How far they can be trusted is measured by `intent explain check`.

    Examples: `intent explain --events user.jsonl --page why.html`;
    `intent explain --data ../shared/data/ga360 --visitor 0036417634769000138 --horizon 7d`;
    `intent explain --data events.csv --map mapping.toml --visitor 1451808`
    """
    if context.invoked_subcommand is not None:
        return
    from worker.explain.explanation import GRADIENTS, OCCLUSION, tables
    from worker.explain.explanation import explain as run
    from worker.scoring.bundle import load

    if (events is None) == (data is None):
        raise typer.BadParameter("name a file of events (- for standard input) or --data", param_hint="--events")
    if mapping is not None and data is None:
        raise typer.BadParameter("--events are in the topic's own form; --map is for --data", param_hint="--map")
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise typer.BadParameter(f"{page} is no file in an existing folder", param_hint="--page")
    if page is not None and not os.access(page.parent if page.is_file() or not page.exists() else page, os.W_OK):
        raise typer.BadParameter(f"{page} cannot be written: it is closed to this user", param_hint="--page")
    methods = {"both": (OCCLUSION, GRADIENTS), "occlusion": (OCCLUSION,), "gradients": (GRADIENTS,)}[method]
    where = options.place(device)
    loaded = load(bundle)
    with err.status("reading the events"):
        story = _story(events, data, mapping, visitor=visitor, until=until, last=last)
    found = run(loaded, story, horizon=_HORIZONS[horizon], methods=methods, device=where)
    if page is not None:
        from worker.explain.picture import write_page

        write_page(found, page)
    if as_json:
        say_json(found.document())
        return
    out.print(tables(found))
    if page is not None:
        line(f"written: {page}")


@explain_app.command("check")
def check(
    data: Annotated[
        Path,
        typer.Option(
            "--data", exists=True, help="Folder of the GA360 sample; or, with --map, a CSV or Parquet table of events."
        ),
    ],
    *,
    mapping: options.Map = None,
    windows: Annotated[int, typer.Option(min=10, max=5_000, help="Validation windows, one a visitor.")] = 300,
    least: Annotated[int, typer.Option(min=3, max=64, help="Events that each has at least.")] = 8,
    horizon: _Horizon = "24h",
    bundle: _Bundle = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: options.Device = "auto",
    folder: Annotated[
        Path, typer.Option("--out", callback=options.folder, help="Folder for deletion.json and deletion.png.")
    ] = Path("runs/explain"),
    runs: Annotated[
        Path, typer.Option(callback=options.folder, help="Keeps the folded windows for the next run.")
    ] = Path("runs"),
    as_json: options.Json = False,
) -> None:
    """Measure whether explanations are faithful: deletion curves against a random order, and whether methods agree.

    The stream's reason codes are tried as well: what the logit loses without the events that a code stands for.
    Takes windows of the validation slice, never of the test slice. About two minutes on one core.

    Example: `intent explain check --data ../shared/data/ga360`
    """
    from worker.explain import codes
    from worker.explain.faithfulness import document, study, tables
    from worker.explain.picture import plot_study
    from worker.explain.sample import draw
    from worker.explain.scorer import Scorer
    from worker.scoring.bundle import load
    from worker.shop.source import opened

    where = options.place(device)
    loaded = load(bundle)
    at = list(_HORIZONS).index(horizon)
    with err.status(f"folding {data}") as status:
        say = partial(line, to=err)
        chosen = draw(opened(data, mapping), runs=runs, count=windows, least=least, horizon=at, seed=seed, say=say)
        found = study(loaded, chosen, horizon=at, seed=seed, device=where, report=status.update)
        worth = codes.worth(Scorer(loaded, device=where), chosen, horizon=at)
    folder.mkdir(parents=True, exist_ok=True)
    model = {"name": loaded.name, "version": loaded.version}
    result = {"model": model, "horizon": horizon, "seed": seed, **document(found)}
    result["codes"] = codes.document(worth)
    with written(folder / "deletion.json") as file:
        file.write_text(json.dumps(result, indent=1) + "\n")
    title = f"{loaded.name} {loaded.version}, {horizon}, {found.windows} validation windows"
    plot_study(found, folder / "deletion.png", title=title)
    if as_json:
        say_json(result)
        return
    for table in (*tables(found), codes.table(worth)):
        out.print(table)
    line(f"{title}; written: {folder / 'deletion.json'}, {folder / 'deletion.png'}")


def _story(
    events: Path | None,
    data: Path | None,
    mapping: Path | None,
    *,
    visitor: str | None,
    until: str | None,
    last: int | None,
) -> "Story":
    from worker.explain import story
    from worker.shop.ga360 import parse_time
    from worker.shop.source import opened

    if data is not None and visitor is None:
        raise typer.BadParameter(f"{data} has many visitors; name one", param_hint="--visitor")
    source = None if data is None else opened(data, mapping)
    try:
        until_ms = None if until is None else (parse_time if source is None else source.time)(until)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--until") from None
    if source is not None:
        told = [event for event in source.events() if event.user_id == visitor]
        if not told:
            raise typer.BadParameter(f"{data} has no visitor {visitor!r}", param_hint="--visitor")
    else:
        assert events is not None
        if str(events) == "-":
            told = story.read(sys.stdin.buffer, source="standard input", user=visitor)
        else:
            try:
                with events.open("rb") as lines:
                    told = story.read(lines, source=str(events), user=visitor)
            except OSError as error:
                raise typer.BadParameter(f"{events} cannot be read ({error.strerror})", param_hint="--events") from None
    told = [event for event in told if until_ms is None or event.time_ms <= until_ms]
    if not told:
        raise typer.BadParameter(f"{until} is before the user's first event", param_hint="--until")
    return story.tell(told[-last:] if last else told)
