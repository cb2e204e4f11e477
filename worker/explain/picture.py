"""An explanation and a study as pictures, and an explanation as one page that needs nothing else."""

import io
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from worker.errors import IntentError
from worker.explain.explanation import Explanation, beside, headline, notes, rows
from worker.explain.faithfulness import SHARES, Study
from worker.whole import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#2a6f97", "#e07a5f", "#6a994e", "#9a9a9a")
_SHOWN = 8  # parts beside the events


def write_page(found: Explanation, path: Path) -> None:
    """One self-contained HTML file: headline, plot, tables. Replaces a file that is there.

    Raises `IntentError` where it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    svg = io.StringIO()
    figure(found).savefig(svg, format="svg")
    page = environment.get_template("page.html.jinja").render(
        title=headline(found),
        svg=svg.getvalue().partition("<svg")[2],
        methods=list(found.methods),
        rows=rows(found),
        parts=beside(found),
        notes=notes(found),
        context=found.story.context,
    )
    device = path.exists() and not path.is_file()  # nothing takes a device's place
    try:
        with nullcontext(path) if device else written(path) as file:
            file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise IntentError(
            f"--page is {str(path)!r}, which cannot be written: {error.strerror}; "
            "name a file on a disk with room, in a folder that this user may write to"
        ) from None


def figure(found: Explanation) -> "Figure":
    """Bars by event, oldest first, and by the weightiest parts beside them."""
    from matplotlib.figure import Figure

    steps = found.story.steps
    whole = Figure(figsize=(max(9.0, 3.5 + 0.17 * len(steps) + 4), 4.6), layout="constrained")
    events, others = whole.subplots(1, 2, width_ratios=[max(len(steps), 16), 22])
    at, width = np.arange(len(steps)), 0.8 / len(found.methods)
    shown = beside(found)[:_SHOWN][::-1]
    for number, (method, one) in enumerate(found.methods.items()):
        shift = (number - (len(found.methods) - 1) / 2) * width
        events.bar(at + shift, np.nan_to_num(one.events), width, color=_COLOURS[number], label=method)
        others.barh(np.arange(len(shown)) - shift, [line[2][number] for line in shown], width, color=_COLOURS[number])
    events.set_xticks(at, [step.kind for step in steps], rotation=90, fontsize=7, parse_math=False)
    for place in range(1, len(steps)):
        if steps[place].opens:
            events.axvline(place - 0.5, color="#888888", linewidth=0.8, linestyle=":")
    events.set(ylabel=f"contribution to the {found.horizon} logit", title="events, oldest first (dotted: new session)")
    events.margins(x=0.01)
    events.legend(fontsize=8)
    others.set_yticks(np.arange(len(shown)), [line[0] for line in shown], fontsize=8)
    others.set_title("beside the events")
    events.axhline(0, color="black", linewidth=0.6)
    others.axvline(0, color="black", linewidth=0.6)
    for axes in (events, others):
        axes.grid(visible=True, axis="both", alpha=0.25)
    return whole


def plot_study(found: Study, path: Path, *, title: str) -> None:
    """Deletion curves: down with the most supporting events first, up with the most opposing."""
    from matplotlib.figure import Figure

    whole = Figure(figsize=(8, 5), layout="constrained")
    axes = whole.subplots()
    for colour, (method, curves) in zip(_COLOURS, found.curves.items(), strict=True):
        axes.plot(100 * SHARES, curves.falling, color=colour, label=method)
        axes.plot(100 * SHARES, curves.rising, color=colour, linestyle="--")
    axes.set(
        xlabel="% of a window's events (but one) left out",
        ylabel="change of the calibrated logit, mean",
        title=title,
    )
    axes.grid(visible=True, alpha=0.3)
    meaning = "solid: most supporting first; dashed: most opposing first"
    whole.legend(loc="outside lower center", ncols=4, title=meaning, fontsize=8, title_fontsize=8)
    with written(path) as file:
        whole.savefig(file, dpi=120, format="png")
