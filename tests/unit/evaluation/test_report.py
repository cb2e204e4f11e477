"""The page says what the JSON says; its curves are what a plain count gives."""

import io
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.unit.evaluation import making
from worker.evaluation import report
from worker.evaluation.compare import BUNDLE, RULE, TREES, compare
from worker.evaluation.curves import ranking, reliability
from worker.evaluation.run import Evaluation
from worker.registry.compare import compare as registry_compare


def evaluation(noise: dict[str, float]) -> Evaluation:
    scored = making.scored(np.random.default_rng(21), noise=noise)
    return Evaluation(
        name="shop",
        version="0123456789ab",
        which="validation",
        refitted=False,
        learnt_until="2016-10-01",
        draws=20,
        comparisons=compare(scored, draws=20),
        scored=scored,
    )


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluation({BUNDLE: 0.2, RULE: 2.0, TREES: 0.5})


@pytest.fixture(scope="module")
def document(found: Evaluation) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(report.document(found), allow_nan=False))
    return loaded


@pytest.fixture(scope="module")
def page(document: dict[str, Any]) -> str:
    return report.page(document)


def plain(html: str) -> str:
    """Without tags, spaces as one."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_page_shows_every_number_of_the_document(document: dict[str, Any], page: str) -> None:
    shown = plain(page)
    for one in document["comparisons"]:
        whole = one["by"] == document["every"]
        for name, metrics in one["scorers"].items():
            if whole or name == BUNDLE:
                assert " ".join(report.estimate(metrics[metric]) for metric in report.HEADINGS) in shown
        for rival, metrics in one["differences"].items():
            row = f"{one['horizon']} {one['population']} {rival} "
            assert row + " ".join(report.signed(metrics[metric]) for metric in ("auc", "ap")) in shown
    for target in document["targets"]:
        assert f"{target['what']} {target['horizon']} {target['wanted']}" in shown
    assert shown.count("not met") == sum(not target["met"] for target in document["targets"])
    assert f"{document['name']} {document['version']}" in shown


def test_the_tables_are_whole_in_80_columns(document: dict[str, Any]) -> None:
    shown = Console(width=80, file=io.StringIO(), force_terminal=False)
    shown.print(*report.tables(document))
    assert isinstance(shown.file, io.StringIO)
    text = shown.file.getvalue()
    assert "…" not in text
    for one in (each for each in document["comparisons"] if each["by"] == document["every"]):
        for metrics in one["scorers"].values():
            assert all(f"{metrics[name]['value']:.4f}" in text for name in report.HEADINGS)
        assert all(report.signed(of["ap"], digits=3) in text for of in one["differences"].values())


def test_names_are_escaped_and_the_same_document_gives_the_same_page(document: dict[str, Any], page: str) -> None:
    again = report.page(document | {"name": "<script>shop"})
    assert "<script" not in again
    assert again.replace("&lt;script&gt;shop", "shop") == page


def test_a_shops_own_names_are_no_formulas(document: dict[str, Any]) -> None:
    renamed = [one | {"population": "$\\frac$ & <b>"} for one in document["comparisons"]]
    shown = report.page(document | {"comparisons": renamed})
    assert ": $\\frac$ &amp; &lt;b&gt;</text>" in shown


def test_the_page_loads_nothing(page: str) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page.replace('xlink:href="#', 'href="#'))
    assert page.count("<svg") == 6  # differences, reliability, precision, gains, lift, slices


@pytest.mark.parametrize("refitted", [False, True])
def test_the_page_says_of_no_bundle_that_it_learnt_this_data(document: dict[str, Any], *, refitted: bool) -> None:
    shown = plain(report.page(document | {"refitted": refitted}))
    assert "bundle, if this is the data that it was trained on" in shown
    assert "Bundle and rivals learnt" not in shown
    assert "all scorers were" not in shown
    assert "What the shipped bundle was to reach" in shown


def test_without_rivals_there_is_a_page_all_the_same() -> None:
    alone = report.document(evaluation({BUNDLE: 0.2}))
    page = report.page(alone)
    assert "minus" not in plain(page)
    assert page.count("<svg") == 4
    assert [table.title for table in report.tables(alone)] == ["every instant", "targets"]


def test_the_numbers_of_a_bundle_are_what_a_promotion_compares(found: Evaluation) -> None:
    worse = evaluation({BUNDLE: 3.0})
    files = [
        (version, {"metrics.json": json.dumps(report.metrics(report.document(one))).encode()})
        for version, one in (("1", found), ("2", worse), ("3", found))
    ]
    rows = registry_compare(files[0], files[1])
    assert len(rows) == 3 * 2 * 2  # horizons, populations, AP and AUC
    assert all(row.worse for row in rows)
    assert not any(row.worse for row in registry_compare(files[1], files[0]))


def test_numbers_of_another_slice_are_not_compared(found: Evaluation) -> None:
    ours, theirs = (
        (one.which, {"metrics.json": json.dumps(report.metrics(report.document(one))).encode()})
        for one in (found, replace(found, which="test"))
    )
    assert registry_compare(ours, theirs) == []


def test_a_ranking_counts_purchases_down_the_order(rng: np.random.Generator) -> None:
    p = np.round(rng.random(3000), 2)  # with ties
    y = rng.random(3000) < p
    found = ranking(p, y)
    order = np.argsort(-p, kind="stable")
    orders = []
    for _ in range(200):  # ties in random order
        shuffled = rng.permutation(3000)
        orders.append(np.cumsum(y[shuffled][np.argsort(-p[shuffled], kind="stable")]))
    caught = np.mean(orders, axis=0)
    assert len(order) == len(caught)
    for at in (0, 50, 120, 199):
        depth = round(found.share[at] * 3000)
        assert found.recall[at] * y.sum() == pytest.approx(caught[depth - 1], abs=1.5)
        assert found.precision[at] == pytest.approx(caught[depth - 1] / depth, abs=0.03)
        assert found.lift[at] == pytest.approx(found.precision[at] / y.mean(), rel=1e-3)
    assert (found.share[-1], found.recall[-1]) == (1.0, 1.0)


def test_reliability_says_what_was_given_and_what_came() -> None:
    p = np.concatenate([np.full(400, 0.015), np.full(600, 0.35)])
    y = np.concatenate([np.arange(400) < 8, np.arange(600) < 300])
    few, many = reliability(p, y, np.arange(1000), draws=200)
    assert (few.instants, many.instants) == (400, 600)
    assert (few.predicted, few.observed, many.observed) == pytest.approx((0.015, 0.02, 0.5))
    assert many.low < 0.5 < many.high
    assert many.high - many.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 600), rel=0.25)
