"""`python -m loadtest transfer`: what another shop's model is worth to a shop that is just beginning to collect.

Owns the options and the table; the study is `loadtest.foreign`'s.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from loadtest import taken, workload
from loadtest.conclude import conclude
from loadtest.options import Json, RealSample, out
from worker.terminal import err

if TYPE_CHECKING:
    from loadtest.foreign import Line
    from worker.training.metrics import Estimate


def transfer(
    *,
    windows: Annotated[int, typer.Option(min=1024, help="That the donor, and the largest share, learn from.")] = 30_720,
    draws: Annotated[int, typer.Option(min=10, help="Resamples of the visitors.")] = 100,
    sample: RealSample = None,
    runs: Annotated[Path, typer.Option(help="Keeps the folded windows.")] = Path("runs"),
    folder: Annotated[Path, out("transfer.json")] = Path("runs/transfer"),
    as_json: Json = False,
) -> None:
    """Train on 1, 10 and 100 % of a foreign shop's visitors, from scratch and from another shop's model.

    The foreign shop is a part of the sample's visitors, its items, categories and pages renamed; the donor learns from
    the others. Both are measured on the foreign shop's validation weeks.
    """
    load_before = taken.load_before(err)
    source = workload.needed_sample(sample)
    with err.status("loading the training") as status:
        from loadtest import foreign

        found = foreign.study(source, runs / "cache", windows=windows, draws=draws, say=status.update)
    document = {
        "taken": taken.provenance(load_before=load_before, packages=("numpy", "torch", "transformers")),
        "windows": windows,
        "instants": found.instants,
        "lines": [asdict(line) for line in found.lines],
    }
    title = f"foreign shop: {found.instants:,} validation instants"
    conclude(document, folder, "transfer", lambda: [table(found.lines, title)], as_json=as_json)


def table(lines: "Sequence[Line]", title: str) -> Table:
    """For a terminal."""
    shown = Table(title=title, title_justify="left")
    for name in ("share", "visitors", "horizon", "metric", "from scratch", "from the donor", "difference"):
        shown.add_column(name, justify="right")
    for line in sorted(lines, key=lambda line: line.share):  # horizons stay in their order
        scratch = "-" if line.scratch is None else _said(line.scratch)
        difference = "" if line.difference is None else _said(line.difference)
        cells = (line.horizon, line.metric.upper(), scratch, _said(line.transfer), difference)
        shown.add_row(f"{line.share:.0%}", f"{line.visitors:,}", *cells)
    return shown


def _said(found: "Estimate") -> str:
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})"
