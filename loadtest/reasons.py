"""`python -m loadtest reasons`: what reason codes and risk cost beside the score, window by window. Without Kafka."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.table import Table

from loadtest import gather, taken, workload
from loadtest.conclude import conclude
from loadtest.options import Json, Sample, out
from worker.errors import CheckFailed
from worker.ops import logs
from worker.terminal import err

MOST: Final = 0.10
"""Of a score's time, for reason codes and risk together."""

_BATCHES: Final = 4


def reasons(
    *,
    count: Annotated[int, typer.Option("--batch", min=1, max=65_536, help="Windows a batch.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each of the 4 batches is scored.")] = 10,
    sample: Sample = None,
    folder: Annotated[Path, out("reasons.json")] = Path("runs/reasons"),
    as_json: Json = False,
) -> None:
    """Measure reason codes and risk: CPU microseconds of a window, and their share of scoring it.

    The shipped model on one thread of the CPU, whole engine, from a window's bytes to its score. Habits are learnt from
    the same windows where the bundle has none. On a GPU both run while the device computes. Exit code 3 when they take
    more than a tenth.
    """
    logs.quiet()
    load_before = taken.load_before(err)
    with err.status("making windows") as status:
        from worker.scoring import bundle as bundles
        from worker.scoring.batch import Batch
        from worker.training import habits as learning

        windows, source = gather.real_windows(sample or workload.sample_folder(), count=_BATCHES * count)
        batches = gather.batched(windows, count, of=_BATCHES)
        bundle = bundles.load()
        if bundle.habits is None:
            decoded = [Batch.of(windows)]
            bundle = replace(bundle, habits=learning.learn(decoded, decoded))
        status.update("scoring")
        microseconds = measure(bundle, batches, rounds=rounds)
    whole = microseconds["the whole score"]
    document = {
        "taken": taken.provenance(load_before=load_before, packages=("numba", "numpy", "torch")),
        "windows": {"source": source, "batch": count, "events": round(float(np.mean([w[2] for w in windows])), 2)},
        "us_per_window": {name: round(us, 3) for name, us in microseconds.items()},
        "share": {name: round(us / whole, 4) for name, us in microseconds.items()},
    }
    conclude(document, folder, "reasons", lambda: [table(document)], as_json=as_json)
    share = document["share"]["reason codes"] + document["share"]["risk by habits"]
    if share > MOST:
        raise CheckFailed(f"reason codes and risk take {100 * share:.1f} % of a score; {100 * MOST:.0f} % are allowed")


def measure(bundle: Any, batches: Sequence[Sequence[bytes]], *, rounds: int) -> dict[str, float]:
    """Microseconds of the process's CPU for a window by part, in turn, the median over all batches and rounds."""
    from worker.scoring import reasons as codes
    from worker.scoring import risk
    from worker.scoring.batch import Batch
    from worker.scoring.engine import Engine

    seconds: defaultdict[str, list[float]] = defaultdict(list)

    def clock(name: str, work: Callable[[], object], windows: Sequence[bytes]) -> None:
        begun = time.process_time()  # of all threads: a busy machine does not lengthen it
        work()
        seconds[name].append((time.process_time() - begun) / len(windows))

    with Engine(lambda: bundle, device="cpu", threads=1) as engine:
        for windows in (batches[0], *(some for _ in range(rounds) for some in batches)):
            batch = Batch.of(windows)
            clock("the whole score", partial(engine.score_now, windows), windows)
            clock("reason codes", partial(codes.top, batch, bundle.surrogate), windows)
            clock("risk by habits", partial(risk.risk, batch, bundle.habits), windows)
            clock("risk by the rule", partial(risk.risk, batch), windows)
    return {name: median(each[1:]) * 1e6 for name, each in seconds.items()}  # the first: compiling


def table(document: dict[str, Any]) -> Table:
    """For people."""
    windows = document["windows"]
    shown = Table(title="Reasons and risk beside the score", title_justify="left", caption_justify="left")
    shown.add_column("part")
    shown.add_column("CPU µs a window", justify="right")
    shown.add_column("share", justify="right")
    for name, us in document["us_per_window"].items():
        shown.add_row(name, f"{us:.2f}", f"{100 * document['share'][name]:.1f} %")
    shown.caption = (
        f"windows of {windows['source']}, {windows['events']} events, {windows['batch']:,} a batch, one thread"
    )
    return shown
