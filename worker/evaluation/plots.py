"""The report's plots as SVG: calibration, precision and recall, lift and gains, differences with intervals.

Knows how a document (`report.document`) is drawn, nothing of how it came about. Needs no screen and no network.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from worker.evaluation.compare import BLEND, BUNDLE, EVENTS_ONLY, RULE, TREES

Document = Mapping[str, Any]

COLOURS: Final = {
    BUNDLE: "#0b5cad",
    TREES: "#d1622b",
    EVENTS_ONLY: "#7a4fa3",
    RULE: "#7f7f7f",
    BLEND: "#2e8b57",
}
"""Told apart by people with any colour vision; the bundle's line is the thicker one besides."""

_STYLE: Final[dict[Any, Any]] = {
    "text.parse_math": False,  # a shop's own names are labels: a dollar sign in one begins no formula
    "svg.fonttype": "none",  # text stays text: smaller, searchable, in the page's own font
    "svg.hashsalt": "intent",  # the same document gives the same picture
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.titlesize": 11,
    "legend.frameon": False,
}


def plots(document: Document) -> dict[str, str]:
    """Each plot by name, as an `<svg>` element."""
    with mpl.rc_context(_STYLE):
        return {name: _svg(figure) for name, figure in figures(document).items()}


def figures(document: Document) -> dict[str, Figure]:
    """Each plot by name. `differences` and `slices` are there only where there are rivals."""
    drawn = {
        "reliability": _panels(document, _reliability, "probability given", "share that bought"),
        "precision": _panels(document, _precision, "recall", "precision"),
        "gains": _panels(document, _gains, "share of instants, best first", "share of purchases found"),
        "lift": _panels(document, _lift, "share of instants, best first", "lift"),
    }
    compared = [one for one in document["comparisons"] if TREES in one["differences"]]
    if compared:
        whole = [one for one in compared if one["by"] == document["every"]]
        drawn["differences"] = _forest(whole, lambda one: str(one["horizon"]))
        day = [one for one in compared if one["horizon"] == "24 h" and one["by"] != document["every"]]
        if day:
            drawn["slices"] = _forest(day, lambda one: f"{one['by']}: {one['population']}")
    return drawn


def _panels(document: Document, draw: Any, x: str, y: str) -> Figure:
    """One picture with a panel a horizon, the same axes in each."""
    curves = document["curves"]
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (horizon, of_horizon) in zip(panels, curves.items(), strict=True):
        draw(axes, of_horizon)
        axes.set(title=horizon, xlabel=x)
    panels[0].set_ylabel(y)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _reliability(axes: Axes, curves: Document) -> None:
    bins = curves["reliability"]
    predicted, observed = ([one[name] for one in bins] for name in ("predicted", "observed"))
    below = [max(one["observed"] - one["low"], 0) for one in bins]
    above = [max(one["high"] - one["observed"], 0) for one in bins]
    axes.plot([1e-3, 1], [1e-3, 1], color="#999999", linestyle="--", linewidth=1, label="as it should be")
    axes.errorbar(
        predicted,
        observed,
        yerr=[below, above],
        color=COLOURS[BUNDLE],
        marker="o",
        markersize=4,
        linestyle="none",
        elinewidth=1,
        capsize=2,
        label=f"{BUNDLE}, with 95 % intervals",
    )
    axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(5e-4, 1))
    axes.set_xticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
    axes.set_yticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])


def _precision(axes: Axes, curves: Document) -> None:
    base = curves["base_rate"]
    axes.axhline(base, color="#999999", linestyle="--", linewidth=1, label="base rate")
    _rankings(axes, curves, "recall", "precision")
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _gains(axes: Axes, curves: Document) -> None:
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="at random")
    _rankings(axes, curves, "share", "recall")
    axes.set(xlim=(0, 0.5), ylim=(0, 1))
    axes.set_xticks([0, 0.1, 0.2, 0.3, 0.4, 0.5], ["0", "10 %", "20 %", "30 %", "40 %", "50 %"])


def _lift(axes: Axes, curves: Document) -> None:
    axes.axhline(1, color="#999999", linestyle="--", linewidth=1, label="at random")
    _rankings(axes, curves, "share", "lift")
    axes.set(xscale="log", xlim=(0.002, 1), ylim=(0, None))
    axes.set_xticks([0.01, 0.05, 0.1, 0.3, 1], ["1 %", "5 %", "10 %", "30 %", "100 %"])
    axes.minorticks_off()


def _rankings(axes: Axes, curves: Document, x: str, y: str) -> None:
    for name, ranking in curves["rankings"].items():
        bundle = name == BUNDLE
        axes.plot(
            ranking[x],
            ranking[y],
            color=COLOURS.get(name, "black"),
            linewidth=2.4 if bundle else 1.2,
            zorder=3 if bundle else 2,
            label=name,
        )


def _forest(compared: Sequence[Document], label: Any) -> Figure:
    """The bundle minus the trees, a row a population: AP on the left, AUC on the right."""
    figure = Figure(figsize=(10.5, 1.3 + 0.3 * len(compared)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("ap", "auc"), strict=True):
        axes.axvline(0, color="#999999", linestyle="--", linewidth=1)
        for row, one in enumerate(compared):
            found = one["differences"][TREES][metric]
            clear = found["low"] > 0 or found["high"] < 0
            axes.plot([found["low"], found["high"]], [row, row], color=COLOURS[BUNDLE], linewidth=1.5)
            axes.plot(
                found["value"],
                row,
                marker="o",
                color=COLOURS[BUNDLE],
                markerfacecolor=COLOURS[BUNDLE] if clear else "white",
            )
        axes.set(title=f"{metric.upper()}: {BUNDLE} minus {TREES}", ylim=(len(compared) - 0.5, -0.5))
        axes.set_yticks(range(len(compared)), [label(one) for one in compared])
        axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure


def _svg(figure: Figure) -> str:
    """Without the XML prologue, which has no place inside a page."""
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    return text[text.index("<svg") :]
