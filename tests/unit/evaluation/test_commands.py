"""`intent evaluate`: what it measures of a made-up sample, what it leaves behind, what it refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.unit.scoring import making
from tests.unit.shop.tables import row, write
from tests.unit.shop.test_table import GA4
from tests.unit.training import samples
from worker import cli
from worker.errors import IntentError
from worker.scoring import bundle as bundles
from worker.shop.ga360 import Sample, parse_time
from worker.training import windows
from worker.training.finetune import Plan
from worker.training.labels import END, TEST, held_out
from worker.training.recipe import Recipe

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's folder, of random weights. Not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    bundles.save(folder, making.bundle())
    return folder


@pytest.fixture(scope="module")
def run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    fixed = ["evaluate", "--data", str(shop), "--runs", str(runs), "--slice", "validation", "--draws", "10"]
    return lambda *arguments: CliRunner().invoke(cli.app, [*fixed, *map(str, arguments)])


def test_numbers_page_and_tables(run: Run, made: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = run("--bundle", made, "--report", page, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["slice"] == "validation"
    assert {line["horizon"] for line in document["lines"]} >= {"30 min", "24 h"}  # few buy in the week of 7 d
    (day,) = (one for one in document["comparisons"] if (one["by"], one["horizon"]) == ("every instant", "24 h"))
    assert set(day["scorers"]) == {"bundle", "rule", "LightGBM", "bundle + LightGBM"}
    assert set(day["differences"]) == {"rule", "LightGBM", "bundle + LightGBM"}
    assert day["scorers"]["rule"]["auc"]["value"] > 0.6
    assert f"base rate {day['base_rate']:.3f}" in " ".join(page.read_text().split())
    told = run("--bundle", made, "--rivals", "none")
    assert f"{day['base_rate']:.4f}" in told.stdout
    assert "LightGBM" not in told.stdout


def test_numbers_and_percentiles_are_attached_on_request(run: Run, made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "bundle"))
    before = bundles.load(folder)
    result = run("--bundle", folder, "--rivals", "none", "--attach", "--json")
    assert result.exit_code == 0, result.output
    after = bundles.load(folder)
    assert after.version == json.loads(result.stdout)["version"] != before.version
    assert after.metrics == {name: json.loads(result.stdout)[name] for name in ("slice", "draws", "lines")}
    assert after.percentiles is not None
    p = np.array([[0, 0, 0], [1, 1, 1]], np.float32)
    assert after.percentiles.of(p).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_bundle_that_continues_another_is_told_to_flatter_itself(run: Run, tmp_path: Path) -> None:
    """What it carries is what a promotion compares: that is not written over."""
    made = replace(making.bundle(), metrics={"slice": "visitors that judge", "against": "0123456789ab", "lines": []})
    version = bundles.save(tmp_path / "bundle", made)
    told = run("--bundle", tmp_path / "bundle", "--rivals", "none", "--json")
    assert told.exit_code == 0, told.output
    assert f"{made.name} {version} continues 0123456789ab: what it learnt since" in told.stderr
    refused = run("--bundle", tmp_path / "bundle", "--attach")
    assert "--attach would replace" in str(refused.exception)
    assert bundles.load(tmp_path / "bundle").metrics == made.metrics


def test_a_bundle_that_learnt_the_test_slice_is_measured_on_visitors_it_did_not_learn(tmp_path: Path) -> None:
    shop = samples.shop(tmp_path, visitors=3_000, seed=8)
    plan = Plan(shape=making.bundle().shape)
    recipe = Recipe.by(Sample(shop), plan, windows=0, until_ms=END)
    made = replace(making.bundle(), refitted=True, recipe=recipe.document())
    version = bundles.save(tmp_path / "bundle", made)
    options = ["--data", str(shop), "--bundle", str(tmp_path / "bundle"), "--runs", str(tmp_path / "runs")]

    def run(*more: str) -> Result:
        return CliRunner().invoke(cli.app, ["evaluate", *options, "--rivals", "none", "--draws", "10", *more])

    refused = run("--slice", "test")
    assert isinstance(refused.exception, IntentError)
    assert f"has taught {made.name} {version}, so that nothing measured there would be true" in str(refused.exception)
    assert "flatters" not in refused.stderr
    told = run("--slice", "validation", "--json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert document["learnt_until"] == "2016-10-16"
    events, _ = windows.build(Sample(shop), tmp_path / "cache")
    weeks = (events.time_ms >= parse_time("2016-10-02")) & (events.time_ms + 86_400_000 <= END)
    measured = weeks & events.instant & held_out(events.visitor, one_in=6)
    (day,) = (line for line in document["lines"] if (line["horizon"], line["population"]) == ("24 h", "every instant"))
    assert day["instants"] == measured.sum()


def test_later_events_that_may_be_its_own_shops_are_told_of(run: Run, shop: Path, tmp_path: Path) -> None:
    plan = Plan(shape=making.bundle().shape)
    for until_ms, told in ((TEST, False), (END, True)):
        recipe = replace(Recipe.by(Sample(shop), plan, windows=0, until_ms=until_ms), data=("0" * 64,))
        bundles.save(tmp_path / "bundle", replace(making.bundle(), refitted=True, recipe=recipe.document()))
        result = run("--bundle", tmp_path / "bundle", "--rivals", "none", "--slice", "test")
        assert result.exit_code == 0, result.output
        assert ("has learnt what became known up to 2016-10-16: if these are" in result.stderr) is told


def test_what_would_fail_later_is_refused_at_once(run: Run, made: Path, tmp_path: Path) -> None:
    nowhere = run("--report", tmp_path / "nowhere" / "report.html")
    assert nowhere.exit_code == 2
    assert "--report" in nowhere.output
    unnamed = run("--attach")
    assert unnamed.exit_code == 2
    assert "--bundle" in unnamed.output
    assert run("--bundle", made, "--draws", "3").exit_code == 2


def test_a_missing_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.evaluation.commands.find_spec", lambda name: None if name == "lightgbm" else object())
    result = run()
    assert isinstance(result.exception, IntentError)
    assert "--rivals trees needs the package lightgbm" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rivals", "trees"], "no train instants for every horizon; --rivals none"),
        (["--rivals", "none", "--attach"], "no validation instants for every horizon"),
    ],
)
def test_slices_too_short_for_rivals_or_percentiles_are_a_sentence(
    made: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    """Three days: enough to measure the shorter horizons on, and nothing to learn the week's from."""
    start_us, day_us = 1_714_521_600_000_000, 86_400_000_000
    table = write(
        tmp_path / "short.csv",
        [
            row(user_pseudo_id=f"v{n}", event_timestamp=start_us + n * 3 * day_us // 400 + later, event_name=kind)
            for n in range(400)
            for later, kind in ((0, "view_item"), (60_000_000, "purchase" if n % 2 else "page_view"))
        ],
    )
    folder = Path(shutil.copytree(made, tmp_path / "bundle"))
    arguments = ["evaluate", "--data", str(table), "--map", str(GA4), "--bundle", str(folder), "--draws", "10"]
    result = CliRunner().invoke(cli.app, [*arguments, "--runs", str(tmp_path / "runs"), *options])
    assert isinstance(result.exception, IntentError), result.exception
    assert says in str(result.exception)
    assert bundles.verify(folder) == bundles.verify(made)


def test_a_sample_without_the_slice_is_a_sentence(made: Path, tmp_path: Path) -> None:
    folder = samples.write(tmp_path, [samples.hit()], [samples.session()])
    arguments = ["evaluate", "--data", str(folder), "--bundle", str(made), "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, IntentError)
    assert "has no test instants" in str(result.exception)
