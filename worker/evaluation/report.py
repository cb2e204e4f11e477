"""What an evaluation says: as a document for programs, as tables for a terminal, as one page for a browser.

The document is the source of the other two: whatever a page shows stands in the JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from worker import terminal
from worker.evaluation import curves
from worker.evaluation.compare import BUNDLE, TREES, Comparison
from worker.evaluation.run import Evaluation
from worker.evaluation.slices import DECISION, EVERY
from worker.evaluation.targets import targets
from worker.training.evaluate import Line
from worker.training.labels import NAMES
from worker.training.metrics import Estimate

Document = dict[str, Any]

HEADINGS: Final = {
    "auc": "ROC-AUC",
    "ap": "AP",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
    "lift_1": "lift at 1 %",
    "lift_5": "lift at 5 %",
    "lift_10": "lift at 10 %",
}


def lines(comparisons: list[Comparison]) -> list[Line]:
    """The bundle's own numbers at every instant and decision point: what a card shows and a promotion compares."""
    return [
        Line(
            horizon=one.horizon,
            population=one.population,
            instants=one.instants,
            visitors=one.visitors,
            base_rate=one.base_rate,
            metrics=one.scorers[BUNDLE],
        )
        for one in comparisons
        if one.by in {EVERY, DECISION}
    ]


def document(evaluation: Evaluation) -> Document:
    """Plain JSON values, rounded to 6 digits. Of `slice` and `lines` alone, a bundle's `metrics.json` is made."""
    found: Document = _rounded(
        {
            "name": evaluation.name,
            "version": evaluation.version,
            "slice": evaluation.which,
            "refitted": evaluation.refitted,
            "learnt_until": evaluation.learnt_until,
            "draws": evaluation.draws,
            "every": EVERY,
            "lines": [asdict(line) for line in lines(evaluation.comparisons)],
            "targets": [asdict(target) for target in targets(evaluation.comparisons, rival=TREES)],
            "comparisons": [asdict(one) for one in evaluation.comparisons],
            "curves": _curves(evaluation),
        }
    )
    return found


def metrics(document: Mapping[str, Any]) -> Document:
    """What a bundle carries as its own numbers (`registry.compare`)."""
    return {"slice": document["slice"], "draws": document["draws"], "lines": document["lines"]}


def page(document: Mapping[str, Any]) -> str:
    """The report as one HTML page that loads nothing from anywhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from worker.evaluation.plots import plots

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"estimate": estimate, "signed": signed}
    template = environment.get_template("page.html.jinja")
    return template.render(
        **document, headings=HEADINGS, plots=plots(document), bundle=BUNDLE, trees=TREES, horizons=NAMES
    )


def tables(document: Mapping[str, Any]) -> list[Table]:
    """For a terminal: the scorers at every instant, the differences, the targets."""
    whole = [one for one in document["comparisons"] if one["by"] == EVERY]
    beside = terminal.table("every instant")
    beside.add_column("horizon", no_wrap=True)
    beside.add_column("scorer")
    for heading in HEADINGS.values():
        beside.add_column(heading.replace(" at ", "\n").replace("log ", "log\n"), justify="right", no_wrap=True)
    for one in whole:
        for name, found in one["scorers"].items():
            beside.add_row(one["horizon"], name, *(f"{found[metric]['value']:.4f}" for metric in HEADINGS))
        beside.add_row(one["horizon"], "base rate", "0.5000", f"{one['base_rate']:.4f}")
        beside.add_row()
    shown = [beside]
    if any(one["differences"] for one in whole):
        paired = terminal.table("the bundle minus each rival, paired, with 95 % intervals")
        paired.add_column("horizon", no_wrap=True)
        for heading in ("at", "rival"):
            paired.add_column(heading)
        for heading in ("ROC-AUC", "AP"):
            paired.add_column(heading, justify="right", no_wrap=True)
        for one in document["comparisons"]:
            for rival, found in one["differences"].items():
                if one["by"] == EVERY or (one["by"] == DECISION and rival == TREES):
                    row = (signed(found[metric], digits=3) for metric in ("auc", "ap"))
                    paired.add_row(one["horizon"], one["population"], rival, *row)
        paired.add_row()
        shown.append(paired)
    verdicts = terminal.table("targets")
    for heading in ("target", "horizon", "wanted", "found", ""):
        verdicts.add_column(heading, no_wrap=heading in {"horizon", "found", ""})
    for target in document["targets"]:
        found = estimate(target["found"]) if target["what"] == "ECE" else signed(target["found"], digits=3)
        verdict = "[green]met[/]" if target["met"] else "[red]not met[/]"
        verdicts.add_row(target["what"], target["horizon"], target["wanted"], found, verdict)
    return [*shown, verdicts]


def estimate(found: Mapping[str, float]) -> str:
    """``0.907 (0.899–0.914)``."""
    return f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def signed(found: Mapping[str, float], *, digits: int = 4) -> str:
    """``+0.0071 (+0.0036 to +0.0100)``."""
    return Estimate(**found).signed(digits=digits)


def _curves(evaluation: Evaluation) -> Document:
    """By horizon, at every instant."""
    scored = evaluation.scored
    whole = scored.populations[EVERY][EVERY]
    found: Document = {}
    for at, horizon in enumerate(NAMES):
        rows = scored.member[:, at] & whole
        y = scored.y[rows, at]
        if y.all() or not y.any():
            continue
        p = {name: scores[rows, at] for name, scores in scored.scorers.items()}
        bins = curves.reliability(p[BUNDLE], y, scored.visitor[rows], draws=evaluation.draws)
        found[horizon] = {
            "base_rate": float(y.mean()),
            "reliability": [asdict(one) for one in bins],
            "rankings": {name: asdict(curves.ranking(of_one, y)) for name, of_one in p.items()},
        }
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
