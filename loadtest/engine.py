"""`python -m loadtest engine`: the engine's forward beside other ways to run the same model on the same windows.

Owns the options, who can take part here, and where results go. The contest itself is `loadtest.scorers`' affair.
"""

import tempfile
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import psutil
import typer

from loadtest import devices, taken
from loadtest.conclude import conclude, save
from loadtest.options import Json, Sample, chosen, out
from worker.errors import IntentError, SettingError
from worker.terminal import err


class Size(StrEnum):
    """Of the model; `scorers.sizes` has the layers."""

    TINY = "tiny"
    MINI = "mini"
    SMALL = "small"
    BASE = "base"


BATCHES: Final = ("32", "512", "4096t", "16384t")
_QUICK_EVENTS: Final = 40_000


def engine(
    *,
    size: Annotated[
        list[Size] | None,
        typer.Option(help="tiny: the shipped model; mini: L4 H256; small: L4 H512; base: L12 H768. Default: all."),
    ] = None,
    mix: Annotated[
        Literal["fixed", "real", "both"],
        typer.Option(help="Lengths of the windows: 64 positions each, or as the sample's are."),
    ] = "both",
    batch: Annotated[
        list[str] | None,
        typer.Option(help=f"Windows in a batch, or positions with a t. Default: {', '.join(BATCHES)}."),
    ] = None,
    scorer: Annotated[list[str] | None, typer.Option(help="Who takes part; repeat for several. Default: all.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU, for each scorer. Default: all cores.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of each scorer and batch, in turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.05, help="Of a run, at least: whole batches.")] = 0.5,
    quick: Annotated[
        bool, typer.Option("--quick", help="The shipped model, batches of 32, two runs of 0.3 s.")
    ] = False,
    sample: Sample = None,
    folder: Annotated[Path, out("engine.json and engine.png")] = Path("runs/engine"),
    as_json: Json = False,
) -> None:
    """Compare scoring: windows a second by model, window lengths and batch. Without Kafka.

    The same encoded windows go through the engine's forward, through transformers eager and compiled, ONNX Runtime and
    OpenVINO: a process each, in turn on one device, padding and packing done beforehand. *score-now* is the whole
    engine, from a window's bytes to its score (on CUDA four callers ask at once); *fixed*: with `model.deterministic`.
    Every scorer's scores are compared with transformers eager's in float32, and with its own in batches of other sizes.
    Each size of batch is told and written as soon as it is measured; all of it takes most of an hour on two cores.
    """
    from loadtest import scorings, workload
    from loadtest.scorers import contest, work
    from loadtest.scorers.task import Task

    where = devices.of(device)
    sizes = size or ([Size.TINY] if quick else list(Size))
    cuts = batch or (["32"] if quick else list(BATCHES))
    _check_batches(cuts)
    runs, seconds = (2, 0.3) if quick else (runs, seconds)
    threads = threads or len(psutil.Process().cpu_affinity() or ())
    load_before = taken.load_before(err)
    names, left_out, packages = _taking_part(scorer, device=where)
    models: dict[str, contest.Standings] = {}
    with err.status("making windows") as status, tempfile.TemporaryDirectory(prefix="intent-engine-") as temporary:
        source = sample or workload.sample_folder()
        pool = work.made(source, events=_QUICK_EVENTS) if quick else work.made(source)
        pool.save(Path(temporary))
        head = {
            "taken": taken.provenance(load_before=load_before, packages=("numpy", "torch", "transformers")),
            "device": devices.shown(where),
            "threads": threads,
            "windows": {
                "source": pool.source,
                "mean_positions": {
                    name: round(float(work.positions(some).mean()), 1) for name, some in pool.windows.items()
                },
            },
            "left_out": left_out,
        }

        def document() -> dict[str, Any]:
            return head | {"models": {name: scorings.document(standings) for name, standings in models.items()}}

        for each in sizes:
            task = Task(scorer="", size=each, device=where, threads=threads, folder=temporary, packages=packages)
            cells = [contest.Cell(name, cut) for name in work.MIXES if mix in {name, "both"} for cut in cuts]
            for cell, standings in contest.hold(
                task, names, cells, pool, runs=runs, seconds=seconds, say=status.update
            ):
                models[str(each)] = standings
                save(document(), folder, "engine")
                err.print(scorings.line(each, standings, cell), highlight=False)
    conclude(
        document(),
        folder,
        "engine",
        lambda: scorings.shown(models, left_out),
        as_json=as_json,
        plot=partial(
            scorings.plot, models, title=f"{devices.shown(where)}, {threads} threads, windows of {pool.source}"
        ),
    )


def _check_batches(cuts: Sequence[str]) -> None:
    for cut in cuts:
        number = cut.removesuffix("t")
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 1 << 20):
            raise SettingError(f"--batch is {cut!r}; accepted is a number of windows (32), or of positions (4096t)")


def _taking_part(scorer: Sequence[str] | None, *, device: str) -> tuple[list[str], dict[str, str], str]:
    """Who takes part; who does not, and why; where the runtimes' packages are."""
    from loadtest import environment
    from loadtest.scorers.contest import REFERENCE, RUNTIMES
    from loadtest.scorers.eager import no_compiler
    from loadtest.scorers.serve import SCORERS

    wanted = {*chosen("--scorer", scorer, SCORERS), REFERENCE}
    names = [name for name in SCORERS if name in wanted]
    packages, no_runtimes = "", "" if device == "cpu" else "the packages that are pinned here compute on CPUs"
    if not no_runtimes and any(name.startswith(RUNTIMES) for name in names):
        try:
            packages = str(environment.runtimes(lambda text: err.print(text, highlight=False)))
        except IntentError as error:
            no_runtimes = str(error)
    no_inductor = no_compiler() if device == "cpu" else None
    reasons = {name: no_runtimes for name in names if name.startswith(RUNTIMES)}
    reasons |= {name: no_inductor or "" for name in names if name.startswith("compile")}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    return [name for name in names if name not in left_out], left_out, packages
