"""How a run went, as a plot: the loss of each stage, and what validation found. Knows the run's history, no files."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from worker.training.validation import HORIZONS

_SMOOTH: Final = 40
"""Points that a loss curve is averaged to."""


def plot(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Of `runs.Run.history`."""
    stages = list(dict.fromkeys(_whole(entry["stage"]) for entry in history))
    measured = [entry for entry in history if entry["validation"]]
    figure = Figure(figsize=(4 * (len(stages) + 2), 3.2), layout="constrained")
    axes = figure.subplots(1, len(stages) + 2, squeeze=False)[0]
    for axis, stage in zip(axes, stages, strict=False):
        parts = list(dict.fromkeys(entry["stage"] for entry in history if _whole(entry["stage"]) == stage))
        for part in parts:
            entries = [entry for entry in history if entry["stage"] == part]
            x, y = (np.array([entry[name] for entry in entries], float) for name in ("windows", "loss"))
            groups = np.array_split(np.arange(len(x)), min(_SMOOTH, len(x)))
            if len(parts) == 1:
                axis.plot(x, y, color="0.85", linewidth=0.6)
            means = [[values[group].mean() for group in groups] for values in (x, y)]
            axis.plot(*means, color="C0", linewidth=1.5 / len(parts) ** 0.5)
        every = [entry["loss"] for entry in history if _whole(entry["stage"]) == stage]
        axis.set_ylim(0, float(np.quantile(every, 0.98)) * 1.15)
        axis.set_title(f"loss: {stage}", fontsize=9)
    for axis, metric, title in zip(axes[len(stages) :], ("auc", "ap"), ("ROC-AUC", "AP"), strict=True):
        for horizon in HORIZONS:
            found = [(entry["windows"], entry["validation"][f"{metric}_{horizon}"]) for entry in measured]
            axis.plot(*np.array(found).reshape(-1, 2).T, marker="o", markersize=3, label=horizon)
        axis.set_title(f"validation: {title}", fontsize=9)
        axis.legend(fontsize=8)
    for axis in axes:
        axis.set_xlabel("windows", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _whole(stage: str) -> str:
    """The stage of which this is a part: the head's members are trained one by one, numbered behind a comma."""
    name, _, number = stage.rpartition(", ")
    return name if number.isdecimal() else stage
