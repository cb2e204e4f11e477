"""A bundle's recipe on all the data: what teaches it, what it says of itself, and when there is nothing to repeat."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from tests.unit.scoring import making
from tests.unit.training import samples
from worker import cli
from worker.errors import IntentError
from worker.registry.compare import compare
from worker.scores import REASONS
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle
from worker.scoring.head import Shape
from worker.scoring.model import build, weights
from worker.shop.ga360 import SPLITS, Sample
from worker.training import examples, finetune, windows
from worker.training.again import Place, again
from worker.training.labels import END, TEST, Events, held_out, labels, member
from worker.training.loop import Progress
from worker.training.recipe import Recipe
from worker.training.update import Outcome
from worker.training.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")

DAY = 86_400_000
PLAN = finetune.Plan(
    windows=4_096,
    batch_windows=128,
    head_windows=1_024,
    half_life_days=14.0,
    learning_rate=3e-3,
    refit=True,
    bf16=False,
    shape=Shape(layers=1, hidden=32, heads=1, head_width=16, members=1, aside=1, apart=True),
)
RECIPE = Recipe(plan=PLAN, windows=2_048, until_ms=TEST, data=("0" * 64,))
QUICK = replace(RECIPE, windows=128, plan=replace(PLAN, head_windows=128))
HERE = Place(device="cpu", bf16=False)


class Killed(Exception):
    """Planted."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many visitors that ten buyers are among those who are held out of the last two weeks."""
    return samples.shop(tmp_path_factory.mktemp("shop"), visitors=3_000, seed=8)


@pytest.fixture(scope="module")
def data(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Events, Windows]:
    return windows.build(Sample(shop), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def former(data: tuple[Events, Windows], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this recipe, it says; its network is untrained, so that there is something to gain."""
    _, kept = data
    torch.manual_seed(1)
    vocabulary = examples.learn_vocabulary(kept, np.arange(2000))
    network = build(PLAN.shape, vocabulary)
    examples.standardise(network, kept, np.arange(2000))
    network.head = network.head.narrowed()
    blank = making.bundle(name="shop")
    card = "# shop\n\nScores.\n\n## How good\n\nVery.\n"
    made = replace(
        blank,
        shape=PLAN.shape,
        vocabulary=vocabulary,
        weights=weights(network),
        card=card,
        refitted=True,
        recipe=RECIPE.document(),
    )
    folder = tmp_path_factory.mktemp("former")
    bundles.save(folder, made)
    return folder


def run(shop: Path, former: Path, folder: Path, *, kill_at: str | None = None, resume: Path | None = None) -> Outcome:
    """Killed in the middle of that stage."""

    def report(progress: Progress) -> None:
        if progress.stage == kill_at and progress.windows > progress.of_windows / 4:
            raise Killed

    return again(
        Sample(shop),
        former,
        folder / "bundle",
        place=HERE,
        runs=folder / "runs",
        draws=20,
        command="intent train --again former" + (" --resume" if resume else ""),
        say=lambda _: None,
        report=report,
        resume=resume,
    )


@pytest.fixture(scope="module")
def whole(shop: Path, former: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """An unbroken run."""
    return run(shop, former, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def made(whole: Outcome) -> Bundle:
    return bundles.load(whole.bundle)


def test_what_teaches_goes_to_the_end_and_spares_the_visitors_who_calibrate(data: tuple[Events, Windows]) -> None:
    """Event by event, from the rule's text."""
    events, _ = data
    moved = replace(events, splits=events.splits.to_the_end())
    taught, calibrating = member(moved, "refit"), member(moved, "refit calibration")
    last_weeks = SPLITS.end - (SPLITS.test - SPLITS.validation) - 7 * DAY
    (outage,) = SPLITS.outages
    for n, time in enumerate(events.time_ms.tolist()):
        held = bool(held_out(events.visitor[n : n + 1], one_in=6)[0])
        for at, horizon in enumerate((DAY // 48, DAY, 7 * DAY)):
            ends, instant = time + horizon, bool(events.instant[n])
            blind = ends > outage[0] and time < outage[1]
            assert taught[n, at] == (instant and not blind and ends <= (last_weeks if held else END))
            assert calibrating[n, at] == (instant and held and time >= last_weeks and ends <= END)
    assert (taught & (events.time_ms >= TEST)[:, None]).any(axis=0).all()  # the test slice is in it
    assert calibrating.any(axis=0).all()
    assert not member(moved, "test").any()


def test_the_network_is_that_of_the_same_run_on_all_the_data(
    data: tuple[Events, Windows], made: Bundle, whole: Outcome
) -> None:
    events, kept = data
    moved = replace(events, splits=events.splits.to_the_end())
    same = finetune.finetune(moved, kept, PLAN, report=lambda _: None, refit=RECIPE.windows)
    for name, tensor in weights(same.model).head.state_dict().items():
        assert torch.equal(tensor, made.weights.head.state_dict()[name]), name
    for name, tensor in weights(same.model).bert.items():
        assert torch.equal(tensor, made.weights.bert[name]), name
    assert whole.trained_parameters == sum(parameter.numel() for parameter in same.model.parameters())


def test_it_says_what_it_is_and_carries_the_comparison(
    shop: Path, former: Path, made: Bundle, whole: Outcome, data: tuple[Events, Windows]
) -> None:
    was = bundles.load(former)
    assert (made.name, made.refitted) == (was.name, True)
    repeated = Recipe.of(made)
    assert repeated == replace(RECIPE, until_ms=END, data=repeated.data)
    assert hashlib.sha256((shop / "hits.parquet").read_bytes()).hexdigest() in repeated.data
    for part in (made.habits, made.percentiles, made.drift):
        assert part is not None
    about, _, rest = made.card.partition("\n## ")
    assert about == "# shop\n\nScores.\n"
    section, _, formers = rest.partition("\n## ")
    assert section.startswith("Trained again\n")
    assert formers == "How good\n\nVery.\n"
    taught = member(replace(data[0], splits=SPLITS.to_the_end()), "refit").any(axis=1).sum()
    for words in (was.version, "2016-10-16", "2016-10-01", "intent train --again former", f"{taught:,} instants"):
        assert words in section
    assert all(code in section for code in REASONS)
    rows = compare(bundles.verify(former), bundles.verify(whole.bundle))
    assert {(row.horizon, row.metric) for row in rows} >= {("24 h", "auc"), ("24 h", "ap")}
    for row in rows:
        (pair,) = (pair for pair in whole.pairs if pair.horizon == row.horizon)
        assert row.difference is not None
        assert row.difference[0] == pytest.approx(pair.after[row.metric] - pair.before[row.metric])
        assert f"{pair.instants:,}" in section
    day = next(pair for pair in whole.pairs if pair.horizon == "24 h")
    assert day.after["auc"] > max(0.65, day.before["auc"])


def test_it_is_compared_on_what_neither_has_learnt(
    shop: Path, former: Path, data: tuple[Events, Windows], whole: Outcome, tmp_path: Path
) -> None:
    """A former that knows half of the last weeks is not judged by that half."""
    events, _ = data
    judging = member(replace(events, splits=events.splits.to_the_end()), "refit calibration")[:, 1]
    (day,) = (pair for pair in whole.pairs if pair.horizon == "24 h")
    assert day.instants == judging.sum()
    assert day.base_rate == pytest.approx(labels(events)[judging, 1].mean())
    knows = END - 10 * DAY
    later = replace(bundles.load(former), recipe=replace(QUICK, until_ms=knows).document())
    bundles.save(tmp_path / "later", later)
    found = run(shop, tmp_path / "later", tmp_path)
    (day,) = (pair for pair in found.pairs if pair.horizon == "24 h")
    assert day.instants == (judging & (events.time_ms >= knows)).sum()


def test_a_killed_run_goes_on_to_the_same_bundle(shop: Path, former: Path, whole: Outcome, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(shop, former, tmp_path, kill_at=finetune.REFIT + finetune.ALL)
    assert not (tmp_path / "bundle").exists()
    (folder,) = (tmp_path / "runs").glob("shop-again-*")
    assert run(shop, former, tmp_path, resume=folder).version == whole.version  # its card tells the first command


def test_another_shops_data_may_be_older(shop: Path, whole: Outcome, tmp_path: Path) -> None:
    """Nothing of it is known to the former, and by its time alone nothing can be compared."""
    recipe = replace(QUICK, until_ms=END + 9 * DAY).document()
    bundles.save(tmp_path / "former", replace(bundles.load(whole.bundle), recipe=recipe))
    places = ["--data", shop, "--again", tmp_path / "former", "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    result = invoke(*places, "--name", "mine", "--precision", "float32")
    assert result.exit_code == 0, result.output
    made = bundles.load(tmp_path / "out")
    assert (made.name, Recipe.of(made).until_ms) == ("mine", END)
    assert "Not compared" in result.output
    assert "Not compared" in made.card


def test_without_later_data_there_is_nothing_to_do(shop: Path, whole: Outcome, tmp_path: Path) -> None:
    with pytest.raises(
        IntentError, match=r"has learnt all that became known up to 2016-10-16, and .* ends on 2016-10-16"
    ):
        run(shop, whole.bundle, tmp_path)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (None, r"does not carry how it was trained \(recipe\.json\)"),
        ({}, r"recipe\.json of .* is not what `intent train` writes: .*`plan`"),
        (RECIPE.document() | {"windows": "many"}, r"Expected `int`, got `str`"),
        (RECIPE.document() | {"windows": -1}, "another network"),
        (RECIPE.document() | {"windows": PLAN.windows + 1}, "another network"),
        (replace(RECIPE, plan=replace(PLAN, batch_windows=0)).document(), "another network"),
        (replace(RECIPE, plan=replace(PLAN, shape=Shape(layers=9, hidden=32, heads=1))).document(), "another network"),
    ],
)
def test_a_bundle_that_does_not_say_how_is_refused(
    shop: Path, former: Path, tmp_path: Path, recipe: dict[str, Any] | None, says: str
) -> None:
    bundles.save(tmp_path / "former", replace(bundles.load(former), recipe=recipe))
    with pytest.raises(IntentError, match=says):
        run(shop, tmp_path / "former", tmp_path)
    assert not (tmp_path / "runs").exists()


def test_data_whose_last_weeks_bought_nothing_at_all_are_refused(former: Path, shop: Path, tmp_path: Path) -> None:
    for name in ("hits", "sessions"):
        path = shop / f"{name}.parquet"
        rows = pq.read_table(path)
        column = "timestamp_ms" if name == "hits" else "start_ms"
        pq.write_table(rows.filter(pq_below(rows, column, SPLITS.start + 20 * DAY)), tmp_path / path.name)
    with pytest.raises(IntentError, match="has no refit calibration instants for every horizon"):
        run(tmp_path, former, tmp_path)


def pq_below(rows: Any, column: str, limit: int) -> Any:
    return np.asarray(rows[column].to_numpy() < limit)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--windows", 2000], "--windows"),
        (["--seed", 2], "--seed"),
        (["--half-life-days", 10], "--half-life-days"),
        (["--from", "y"], "--from"),
        (["--peft", "lora"], "--peft"),
        (["--no-test"], "--test"),
    ],
)
def test_what_the_recipe_settles_is_not_asked_for(options: list[object], says: str, shop: Path, tmp_path: Path) -> None:
    result = invoke("--data", shop, "--again", "x", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert says in result.output
    assert "--again names has it settled" in " ".join(result.output.replace("│", " ").split())


def test_on_the_command_line(shop: Path, former: Path, tmp_path: Path) -> None:
    bundles.save(tmp_path / "former", replace(bundles.load(former), recipe=QUICK.document()))
    places = ["--data", shop, "--again", tmp_path / "former", "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    result = invoke(*places, "--draws", 20, "--precision", "float32")
    assert result.exit_code == 0, result.output
    for words in (
        "on all up to 2016-10-16",
        "on visitors that taught it nothing",
        bundles.load(tmp_path / "out").version,
    ):
        assert words in " ".join(result.output.split())


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])
