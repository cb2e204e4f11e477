"""How scorers compare: rates, ratios, shares of the peak, costs of starting; as tables, a plot and JSON."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.table import Table

from loadtest.scorers.contest import OURS, REFERENCE, Cell, Found, Standings
from loadtest.standings import spread

_MIXES: Final = {"fixed": "64 positions each", "real": "the sample's lengths"}


def rates(found: Found) -> list[float]:
    """Windows a second, a run each."""
    return [turn.rate for turn in found.turns]


def cpu_us(found: Found) -> list[float]:
    """Microseconds of the process's CPU for a window, a run each."""
    return [turn.cpu_s / turn.windows * 1e6 for turn in found.turns]


def ratio(standings: Standings, name: str, cell: Cell, *, to: str = REFERENCE) -> float:
    """How many times as fast as another a scorer is: the median over the rounds, in each of which both had a turn."""
    places = standings.places
    pairs = zip(rates(places[name].cells[cell]), rates(places[to].cells[cell]), strict=True)
    return median(mine / theirs for mine, theirs in pairs)


def share(standings: Standings, name: str, cell: Cell) -> float | None:
    """Of the device's peak in the scorer's precision, that its useful work is; None for integers.

    Useful is what the formula counts (`work.flops`): padding is not, and what a forward leaves out is.
    """
    peak = standings.peaks.get(f"peak-{precision(name)}")
    if peak is None:
        return None
    return median(turn.flops / turn.seconds for turn in standings.places[name].cells[cell].turns) / median(peak)


def precision(name: str) -> str:
    """In which a scorer computes, by its name."""
    return next(part for part in name.split("-") if part in {"fp32", "bf16", "int8"})


def whole_share(standings: Standings, cell: Cell, dtype: str) -> float | None:
    """What the whole engine keeps of its own forward's rate; None where one of the two was not measured."""
    whole, alone = f"score-now-{dtype}", f"packed-{dtype}"
    return ratio(standings, whole, cell, to=alone) if {whole, alone} <= standings.places.keys() else None


def table(size: str, standings: Standings, cell: Cell) -> Table:
    """One cell, the fastest first."""
    shown = Table(
        title=f"{size}: {_MIXES[cell.mix]}, {_batch(cell.batch)}", title_justify="left", caption_justify="left"
    )
    runs = max(len(place.cells[cell].turns) for place in standings.places.values())
    lines = [f"median of {runs} alternating runs (smallest to largest); x: times as fast as {REFERENCE}"]
    for dtype in ("fp32", "bf16"):
        kept = whole_share(standings, cell, dtype)
        if kept is not None:
            lines.append(f"the whole engine keeps {kept:.0%} of its forward's rate ({dtype})")
    shown.caption = "\n".join(lines)
    columns = ("", "windows/s", "range", "positions/s", "x", "of peak", "CPU µs/window", "first batches s")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    ordered = sorted(standings.places, key=lambda name: -median(rates(standings.places[name].cells[cell])))
    for name in ordered:
        found = standings.places[name].cells[cell]
        reached, part = rates(found), share(standings, name, cell)
        shown.add_row(
            name,
            f"{median(reached):,.0f}",
            f"{min(reached):,.0f} – {max(reached):,.0f}",
            f"{median(turn.positions / turn.seconds for turn in found.turns):,.0f}",
            f"{ratio(standings, name, cell):.2f}",
            "" if part is None else f"{part:.0%}",
            f"{median(cpu_us(found)):,.0f}",
            f"{found.warm_up_s:.2f}",
            style="bold" if name.startswith(OURS) else "",
        )
    return shown


def line(size: str, standings: Standings, cell: Cell) -> str:
    """One cell in short: the worker's own beside the fastest of the others, or why it was not measured."""
    if str(cell) in standings.left_out:
        return f"{size}, {cell}: left out, {standings.left_out[str(cell)]}"
    ordered = sorted(standings.places, key=lambda name: -ratio(standings, name, cell))
    others = [name for name in ordered if not name.startswith(OURS)]
    ours = [name for name in ordered if name.startswith(OURS)]
    told = ", ".join(f"{name} {ratio(standings, name, cell):.1f}x" for name in [*ours, *others[:1]])
    return f"{size}, {_MIXES[cell.mix]}, {_batch(cell.batch)}: {told} {REFERENCE}"


def cost_table(size: str, standings: Standings) -> Table:
    """What each scorer costs before it scores, and how far its scores are from the reference's."""
    shown = Table(title=f"{size}: starting, memory, scores", title_justify="left", caption_justify="left")
    peaks = ", ".join(
        f"{name.removeprefix('peak-')} {median(found) / 1e12:.3g} TFLOP/s" for name, found in standings.peaks.items()
    )
    shown.caption = f"memory: of the device, or the process's growth on a CPU; the device's peak: {peaks}"
    columns = ("", "load s", "first score s", "memory MB", "most that a score differs", "by its batch")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for name, place in standings.places.items():
        shown.add_row(
            name,
            f"{place.ready.load_s:.2f}",
            f"{place.ready.first_score_s:.1f}",
            f"{memory_mb(standings, name):,.0f}",
            f"{standings.difference(name):.1e}",
            f"{standings.dependence(name):.1e}",
            style="bold" if name.startswith(OURS) else "",
        )
    return shown


def shown(models: Mapping[str, Standings], left_out: Mapping[str, str]) -> Iterator[Table | str]:
    """All tables of all sizes, then what was left out, of all sizes or of one, and why."""
    reasons = dict(left_out)
    for size, standings in models.items():
        yield cost_table(size, standings)
        for cell in cells(standings):
            yield table(size, standings, cell)
        reasons |= {f"{size}: {what}": reason for what, reason in standings.left_out.items()}
    for what, reason in reasons.items():
        yield f"{what} is left out: {reason}"


def memory_mb(standings: Standings, name: str) -> float:
    """The most that was seen."""
    place = standings.places[name]
    return max([place.ready.memory_mb, *(found.memory_mb for found in place.cells.values())])


def cells(standings: Standings) -> list[Cell]:
    """What was measured."""
    return list(next(iter(standings.places.values())).cells)


def document(standings: Standings) -> dict[str, Any]:
    """For programs; plain JSON values."""
    return {
        "peak_flops_per_s": {name: spread(found) for name, found in standings.peaks.items()},
        "left_out": standings.left_out,
        "scorers": {
            name: {
                "load_s": round(place.ready.load_s, 3),
                "first_score_s": round(place.ready.first_score_s, 2),
                "memory_mb": round(memory_mb(standings, name), 1),
                "most_score_difference": standings.difference(name),
                "most_difference_by_batch": standings.dependence(name),
                "cells": {
                    f"{cell.mix}/{cell.batch}": {
                        "windows_per_s": spread(rates(found)),
                        "positions_per_s": spread([turn.positions / turn.seconds for turn in found.turns]),
                        "cpu_us_per_window": spread(cpu_us(found)),
                        "ratio_to_eager_fp32": round(ratio(standings, name, cell), 3),
                        "share_of_peak": None if (part := share(standings, name, cell)) is None else round(part, 4),
                        "first_batches_s": round(found.warm_up_s, 3),
                        "batches": [turn.batches for turn in found.turns],
                    }
                    for cell, found in place.cells.items()
                },
            }
            for name, place in standings.places.items()
        },
    }


def plot(models: Mapping[str, Standings], path: Path, *, title: str) -> None:
    """A panel a model and mix, a row a scorer, a mark a size of batch: the median's ratio to the reference."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(size, mix) for size, each in models.items() for mix in dict.fromkeys(cell.mix for cell in cells(each))]
    if not panels:
        return
    rows = max(len(each.places) for each in models.values())
    figure, drawn = plt.subplots(
        (len(panels) + 1) // 2,
        min(2, len(panels)),
        figsize=(13, (0.3 * rows + 1.4) * ((len(panels) + 1) // 2)),
        layout="constrained",
        squeeze=False,
    )
    for axes in drawn.flat[len(panels) :]:
        axes.remove()
    for axes, (size, mix) in zip(drawn.flat, panels, strict=False):
        standings = models[size]
        some = [cell for cell in cells(standings) if cell.mix == mix]
        names = sorted(standings.places, key=lambda name: ratio(standings, name, some[0]))
        for mark, cell in zip("os^D", some, strict=False):
            ratios = [ratio(standings, name, cell) for name in names]
            axes.plot(ratios, range(len(names)), mark, label=_batch(cell.batch), alpha=0.8)
        axes.set_yticks(range(len(names)), names)
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text().startswith(OURS) else "normal")
        axes.axvline(1, color="grey", linewidth=1)
        axes.set(
            title=f"{size}, {_MIXES[mix]}", xlabel=f"times as many windows a second as {REFERENCE}", xlim=(0, None)
        )
        axes.grid(axis="both", alpha=0.3)
        axes.legend(loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _batch(size: str) -> str:
    return f"batches of {size.removesuffix('t')} {'positions' if size.endswith('t') else 'windows'}"
