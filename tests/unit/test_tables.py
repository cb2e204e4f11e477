"""Tables of numbers with intervals are whole in 80 columns: nothing is cut, no number is broken."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from worker.registry.compare import Row, comparison
from worker.training import evaluate, succession
from worker.training.metrics import Estimate

VERSIONS = {"before": "0123456789ab", "after": "ba9876543210"}
LEAD = Estimate(0.021, -0.004, 0.037)


def measured() -> Table:
    metrics = dict.fromkeys(evaluate.HEADINGS, Estimate(0.907, 0.899, 0.914))
    line = evaluate.Line(
        horizon="30 min",
        population="first add to cart",
        instants=123_456,
        visitors=9_999,
        base_rate=0.093,
        metrics=metrics,
    )
    return evaluate.table([line], title="validation slice (chosen on it: optimistic)")


def succeeded() -> Table:
    numbers = {"auc": 0.9, "ap": 0.5}
    pair = succession.Pair(
        horizon="30 min",
        instants=123_456,
        visitors=9_999,
        base_rate=0.093,
        before=numbers,
        after=numbers,
        differences=dict.fromkeys(numbers, LEAD),
    )
    return succession.table([pair], **VERSIONS)


def promoted(difference: tuple[float, float, float] | None) -> Table:
    row = Row(
        horizon="30 min",
        population="first add to cart",
        metric="auc",
        before=(0.907, 0.899, 0.914),
        after=(0.807, 0.799, 0.814),
        difference=difference,
    )
    return comparison([row], **VERSIONS)


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        pytest.param(measured(), ["(.899–.914)", "123,456", "log loss"], id="training"),
        pytest.param(succeeded(), ["+0.021", "(-0.004 to +0.037)", "123,456", *VERSIONS.values()], id="succession"),
        pytest.param(promoted(None), ["0.907 (0.899 to 0.914)", "worse", *VERSIONS.values()], id="promotion"),
        pytest.param(promoted((-0.02, -0.03, -0.01)), ["-0.020", "worse", *VERSIONS.values()], id="paired"),
    ],
)
def test_a_table_is_whole(table: Table, parts: list[str]) -> None:
    shown = Console(width=80, file=io.StringIO(), force_terminal=False)
    shown.print(table)
    assert isinstance(shown.file, io.StringIO)
    text = shown.file.getvalue()
    assert "…" not in text
    assert [part for part in parts if part not in text] == []
