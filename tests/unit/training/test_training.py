"""From a small sample to a bundle and back to scores; and that nothing of the future leaks into any of it."""

import hashlib
import json
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from tests.unit.scoring import making
from tests.unit.training import samples
from worker import cli, window
from worker.errors import IntentError
from worker.events import Context, Event, encode
from worker.fold import fold
from worker.replay.tape import Played
from worker.scoring import bundle as bundles
from worker.scoring import engine as engines
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.engine import Engine
from worker.scoring.head import Shape
from worker.scoring.model import weights
from worker.shop.ga360 import ORDER_COMPLETED, SPLITS, Sample
from worker.training import evaluate, finetune, validation, windows
from worker.training.examples import Examples, fresh
from worker.training.labels import START, TEST, labels, member
from worker.training.loop import Progress
from worker.training.metrics import LEAST_USERS
from worker.training.recipe import Recipe
from worker.training.runs import Run
from worker.training.score import PERCENTILES, SCHEMA, score
from worker.training.train import Outcome, train
from worker.watermark import Watermark

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = finetune.Plan(
    windows=4_000,
    batch_windows=128,
    evaluations=4,
    validation_windows=1_000,
    learning_rate=3e-3,
    bf16=False,
    shape=Shape(layers=1, hidden=32, heads=1, head_width=32),
)


FULL = replace(
    PLAN,
    teacher=0.5,
    head_windows=2_048,
    windows=2_048,
    auxiliary=0.3,
    even=0.5,
    half_life_days=14.0,
    refit=True,
    shape=replace(PLAN.shape, members=2, aside=1, apart=True),
)
"""With all that a plain run is spared."""


class Killed(Exception):
    """Planted."""


@pytest.fixture(scope="session")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle that was trained on the small sample."""
    folder = tmp_path_factory.mktemp("trained")
    run = train(
        shop,
        folder / "bundle",
        name="small",
        plan=FULL,
        runs=folder / "runs",
        draws=20,
        command="intent train --data shop",
        say=lambda _: None,
        report=lambda _: None,
    )
    assert {path.name for path in run.folder.iterdir()} == {
        "run.json",
        "history.jsonl",
        "curves.png",
        "report.json",
        "checkpoints",
    }
    day = next(line for line in run.test if line.horizon == "24 h" and line.population == "every instant")
    assert day.metrics["auc"].value > 0.65
    return run.bundle


@pytest.fixture(scope="session")
def small(trained: Path) -> Bundle:
    return bundles.load(trained)


def table(
    sample: Sample, bundle: Bundle, out: Path, *, from_ms: int | None = None, to_ms: int | None = None
) -> list[dict[str, object]]:
    with Engine(lambda: bundle, device="cpu") as engine:
        rows = score(sample, out, engine=engine, from_ms=from_ms, to_ms=to_ms)
    found = pq.read_table(out)
    assert found.schema.equals(pa.schema([*SCHEMA, *PERCENTILES]))
    assert len(found) == rows
    return list(found.to_pylist())


def test_the_card_tells_where_it_comes_from(small: Bundle) -> None:
    for word in ("intent train --data shop", "Test slice", "Limits", "R2 =", "windows=2048", "Refitted"):
        assert word in small.card


def test_a_bundle_carries_how_it_was_trained(small: Bundle) -> None:
    recipe = Recipe.of(small)
    assert (recipe.plan, recipe.until_ms) == (FULL, TEST)
    assert f"after {recipe.windows:,} windows" in " ".join(small.card.split())


def test_every_instant_gets_a_score_and_no_other_event(shop: Path, small: Bundle, tmp_path: Path) -> None:
    rows = table(Sample(shop), small, tmp_path / "scores.parquet")
    wanted = [event for event in Sample(shop).events() if event.page != ORDER_COMPLETED]
    assert [(row["session_id"], row["timestamp_ms"]) for row in rows] == [
        (event.session_id, event.time_ms) for event in wanted
    ]
    assert [f"{row['session_id']}-{row['hit_number']}" for row in rows] == [event.event_id for event in wanted]
    p = np.array([[row[name] for name in SCHEMA.names[4:]] for row in rows])
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p, axis=1) >= 0).all()


def test_a_range_is_scored_with_the_history_before_it(shop: Path, small: Bundle, tmp_path: Path) -> None:
    sample = Sample(shop)
    cut = list(sample.events())[2500].time_ms
    whole = table(sample, small, tmp_path / "whole.parquet")
    part = table(sample, small, tmp_path / "part.parquet", from_ms=cut, to_ms=cut + 10**9)
    wanted = [row for row in whole if cut <= int(str(row["timestamp_ms"])) < cut + 10**9]
    assert len(part) == len(wanted) > 50
    for ours, theirs in zip(part, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_events_to_come_change_no_earlier_score(shop: Path, small: Bundle, tmp_path: Path) -> None:
    """The same table with its second half cut off."""
    sample = Sample(shop)
    cut = list(sample.events())[2000].time_ms
    hits = pq.read_table(shop / "hits.parquet")
    pq.write_table(hits.filter(np.array(hits["timestamp_ms"]) < cut), tmp_path / "hits.parquet")
    (tmp_path / "sessions.parquet").write_bytes((shop / "sessions.parquet").read_bytes())
    past = table(Sample(tmp_path), small, tmp_path / "past.parquet")
    whole = table(sample, small, tmp_path / "whole.parquet")
    for before, after in zip(past, whole, strict=False):
        assert before == pytest.approx(after, abs=1e-5)


def test_the_windows_of_training_are_those_of_serving(shop: Path, tmp_path: Path) -> None:
    """Kept windows are the stream's, cut off behind their rows, and come back from the cache as they went."""
    sample = Sample(shop)
    events, kept = windows.build(sample, tmp_path)
    again_events, again = windows.build(sample, tmp_path)
    served = [encoded for _, encoded in windows.fold_all(sample.events())]
    places = np.arange(len(kept))
    for mine, cached, encoded in zip(kept.take(places), again.take(places), served, strict=True):
        assert mine == cached == encoded[: len(mine)]
        assert len(mine) == 42 + 22 * encoded[2]
    assert np.array_equal(events.time_ms, again_events.time_ms)


@pytest.mark.parametrize(("days", "afresh"), [(35, False), (36, True)])
def test_who_was_silent_for_long_starts_afresh_as_in_the_stream(days: int, afresh: bool) -> None:
    """Even where no session's name tells the visits apart, and an id that was the user's last year comes again."""
    first = making.event(1, context=Context(channel="Direct"))
    last = making.event(
        2 if days < 36 else 1,
        event_time=first.time_ms + days * 86_400_000,
        context=Context(channel="Email"),
    )
    records = [Played(at, one.time_ms, b"u", encode(one), []) for at, one in enumerate((first, last))]
    live = fold(records, windows=lambda _: None, start=Watermark(), rules=window.Rules(), mode="every").updated[-1]
    *_, (_, offline) = windows.fold_all(iter([first, last]))
    assert offline == live.window
    assert (offline == making.window_of([last])) is afresh


def test_windows_that_were_not_made_to_the_end_are_made_again(shop: Path, tmp_path: Path) -> None:
    """The first run is killed while it writes; two more begin at once, and neither reads what the other writes."""
    sample = Sample(shop)
    folder = tmp_path / f"windows-{windows.key(sample)}"

    class Killing(Sample):
        def events(self, *range_: int | None) -> Iterator[Event]:
            yield from islice(super().events(*range_), 100)
            raise Killed

    with pytest.raises(Killed):
        windows.build(Killing(shop), tmp_path)
    assert (folder / "content.bin").exists()
    makers: list[int] = []
    never = threading.Event()

    class Waiting(Sample):
        def events(self, *range_: int | None) -> Iterator[Event]:
            makers.append(threading.get_ident())
            never.wait(1.0)  # so that the other comes, which gets nowhere
            return super().events(*range_)

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(windows.build, Waiting(shop), tmp_path) for _ in range(2)]
        found = [each.result() for each in both]
    assert len(makers) == 1
    served = [encoded for _, encoded in windows.fold_all(sample.events())]
    for events, kept in found:
        assert len(events.time_ms) == len(served)
        assert kept.take(np.arange(len(kept))) == [encoded[: 42 + 22 * encoded[2]] for encoded in served]


def test_windows_without_room_are_a_sentence_and_are_made_again(shop: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(IntentError, match=r"windows-\w+ cannot be written \(File too large\); make room there"):
            windows.build(Sample(shop), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(windows.build(Sample(shop), tmp_path)[1]) == len(Sample(shop))


@pytest.mark.parametrize("file", ["content.bin", "ends.npy", "kind.npy"])
@pytest.mark.parametrize("left", [0, 200])
def test_damaged_windows_are_told(shop: Path, tmp_path: Path, file: str, left: int) -> None:
    windows.build(Sample(shop), tmp_path)
    (path,) = tmp_path.glob(f"windows-*/{file}")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(IntentError, match=r"windows-\w+ is damaged .*delete it"):
        windows.build(Sample(shop), tmp_path)


def test_shuffled_labels_leave_nothing_to_learn(shop: Path, tmp_path: Path) -> None:
    events, kept = windows.build(Sample(shop), tmp_path)
    rng = np.random.default_rng(2)
    # whole visitors change places, for a visitor's labels belong together
    swap = rng.permutation(int(events.visitor.max()) + 1)
    bought = labels(events)[:, 1]
    buyers = np.zeros(len(swap), np.bool_)
    buyers[events.visitor[bought]] = True
    shuffled = np.repeat(buyers[swap][events.visitor][:, None], 3, axis=1)
    auc = {}
    for name, targets in {"true": None, "shuffled": shuffled}.items():
        done = finetune.finetune(events, kept, PLAN, report=lambda _: None, targets=targets)
        auc[name] = done.history[-1]["auc_24h"]
    assert auc["true"] > 0.65  # half of the instants come before anything tells buyers from lookers
    assert auc["shuffled"] == pytest.approx(0.5, abs=0.12)


def test_the_same_plan_gives_the_same_model(shop: Path, tmp_path: Path) -> None:
    events, kept = windows.build(Sample(shop), tmp_path)
    plan = finetune.Plan(windows=500, batch_windows=128, validation_windows=200, bf16=False, shape=PLAN.shape)
    places = np.arange(50)
    first, second = (
        finetune.predict(weights(done.model), done.vocabulary, kept, places)
        for done in (finetune.finetune(events, kept, plan, report=lambda _: None) for _ in range(2))
    )
    assert np.array_equal(first, second)


def test_a_refit_is_the_same_run_on_more_and_stops_where_it_is_told(shop: Path, tmp_path: Path) -> None:
    events, kept = windows.build(Sample(shop), tmp_path)
    seen: list[Progress] = []
    done = finetune.finetune(events, kept, FULL, report=seen.append, refit=256)
    heads = {f"{finetune.REFIT}{finetune.HEAD}, {member}" for member in (1, 2, 3)}
    assert {progress.stage for progress in seen} == heads | {finetune.REFIT + finetune.ALL}
    assert seen[-1].windows == 256
    assert seen[-1].of_windows == 2_048  # the schedule of the whole run
    assert done.history == []
    assert not any(progress.validation for progress in seen)


def test_the_head_learns_before_the_bert_does(shop: Path, tmp_path: Path) -> None:
    """What the last stage begins with; and its first step does not undo it."""
    events, kept = windows.build(Sample(shop), tmp_path)
    loss = {}
    for begun in (0, 8_192):
        plan = replace(FULL, windows=128, head_windows=begun)
        history = finetune.finetune(events, kept, plan, report=lambda _: None).history
        assert [entry["windows"] for entry in history] == [0, 128]
        loss[begun] = [entry["log_loss_24h"] for entry in history]
    assert max(loss[8_192]) < min(loss[0]) - 0.1


def test_an_auxiliary_label_weighs_as_the_plan_says(shop: Path, tmp_path: Path) -> None:
    events, kept = windows.build(Sample(shop), tmp_path)
    plain = Examples.of(events, kept, "train")
    beside = plain.taught_beside(events)
    places = plain.pool[:200]

    def loss(examples: Examples, weight: float) -> float:
        network, vocabulary = fresh(examples, PLAN.shape, seed=1)
        with torch.no_grad():
            network.head.fusion.answer.weight.zero_()  # alike, whatever the other layers began as
            network.head.fusion.answer.bias.fill_(0.1)
        given = (network.eval(), vocabulary, examples, places, replace(PLAN, auxiliary=weight, forget=0.0))
        return finetune.Step(*given, np.random.default_rng(1), head_alone=True).backward()

    none, half, whole = (loss(beside, weight) for weight in (0.0, 0.5, 1.0))
    assert none == pytest.approx(loss(plain, 0.5), rel=1e-5)
    assert whole - half == pytest.approx(half - none, rel=1e-3)
    assert whole - none > 0.1


def test_auxiliary_labels_teach_and_are_not_served(shop: Path, tmp_path: Path) -> None:
    events, kept = windows.build(Sample(shop), tmp_path)
    plan = replace(FULL, head_windows=512, windows=128, teacher=0.0)
    places = np.arange(50)
    with_, without = (
        finetune.finetune(events, kept, replace(plan, auxiliary=weight), report=lambda _: None) for weight in (1.0, 0.0)
    )
    found, plain = (finetune.predict(weights(done.model), done.vocabulary, kept, places) for done in (with_, without))
    assert found.shape == plain.shape == (50, 3)
    assert not np.array_equal(found, plain)
    shapes = [{name: tuple(one.shape) for name, one in done.model.state_dict().items()} for done in (with_, without)]
    assert shapes[0] == shapes[1]


SHORT = replace(FULL, pretrain_windows=512, head_windows=512, windows=512, validation_windows=400)
"""Every stage, a few steps of each."""


def run(
    shop: Path,
    folder: Path,
    *,
    plan: finetune.Plan = SHORT,
    kill_at: str | None = None,
    resume: Path | None = None,
) -> Outcome:
    """Training without the test slice; killed in the middle of that stage."""

    def report(progress: Progress) -> None:
        if progress.stage == kill_at and progress.windows > progress.of_windows / 2:
            raise Killed

    return train(
        shop,
        folder / "bundle",
        name="small",
        plan=plan,
        runs=folder / "runs",
        draws=2,
        command="intent train --data shop",
        say=lambda _: None,
        report=report,
        resume=resume,
        test=False,
    )


@pytest.fixture(scope="module")
def whole(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """An unbroken run."""
    return run(shop, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stage", [finetune.ALL, finetune.REFIT + finetune.HEAD + ", 2"])
def test_a_killed_run_goes_on_to_the_same_bundle(shop: Path, whole: Outcome, tmp_path: Path, stage: str) -> None:
    with pytest.raises(Killed):
        run(shop, tmp_path, kill_at=stage)
    assert not (tmp_path / "bundle").exists()
    (folder,) = (tmp_path / "runs").glob("small-*")
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"stage": "the he')  # as a full disk cuts it
    resumed = run(shop, tmp_path, resume=folder)
    for name in ("bert/model.safetensors", "head.safetensors", "vocabulary.json", "calibration.json"):
        assert (resumed.bundle / name).read_bytes() == (whole.bundle / name).read_bytes(), name
    histories = [
        [(entry["stage"], entry["windows"], entry["loss"]) for entry in Run(one.folder, {}).history()]
        for one in (whole, resumed)
    ]
    assert sorted(histories[0]) == sorted(histories[1])


@pytest.mark.parametrize("buyers", [LEAST_USERS - 1, LEAST_USERS])
def test_a_slice_of_few_buyers_is_not_measured(shop: Path, tmp_path: Path, buyers: int) -> None:
    """Their resamples make a narrow interval that says nothing, by which `intent model promote` would judge."""
    events, kept = windows.build(Sample(shop), tmp_path)
    buying = labels(events)[:, 0] & member(events, "validation")[:, 0]
    few = np.isin(events.visitor, np.unique(events.visitor[buying])[:buyers])
    measured = evaluate.evaluate(
        making.bundle(), replace(events, purchase=events.purchase & few), kept, which="validation", draws=2
    )
    assert any(line.horizon == "30 min" for line in measured) is (buyers == LEAST_USERS)


def test_without_the_test_slice_nothing_of_it_is_told(whole: Outcome) -> None:
    assert whole.test == []
    assert whole.validation
    assert "Not scored in this run" in bundles.load(whole.bundle).card
    assert json.loads((whole.folder / "report.json").read_text())["test"] == []


def test_only_the_same_command_on_the_same_data_resumes(shop: Path, whole: Outcome, tmp_path: Path) -> None:
    with pytest.raises(IntentError, match=r"that run has seed = 1, this command 2; repeat its command: intent train"):
        run(shop, tmp_path, plan=replace(SHORT, seed=2), resume=whole.folder)
    with pytest.raises(IntentError, match=r"no run\.json of a run is there"):
        run(shop, tmp_path, resume=tmp_path)
    other = samples.write(tmp_path, [samples.hit()], [samples.session()])
    with pytest.raises(IntentError, match=r"are not what that run was made from"):
        run(other, tmp_path, resume=whole.folder)


def test_a_run_of_a_table_knows_the_file_and_the_mapping(tmp_path: Path) -> None:
    table, mapping = tmp_path / "events.csv", tmp_path / "mapping.toml"
    table.write_text("a\n")
    mapping.write_text("b\n")
    begun = Run.begin(tmp_path, "shop", plan={}, data=[table, mapping], command="")
    Run.resume(begun.folder, plan={}, data=[table, mapping])
    for changed in (table, mapping):
        before = changed.read_text()
        changed.write_text("c\n")
        with pytest.raises(IntentError, match=r"events\.csv and .*mapping\.toml are not what that run was made from"):
            Run.resume(begun.folder, plan={}, data=[table, mapping])
        changed.write_text(before)


def test_a_runs_folder_says_what_it_was_made_from(shop: Path, whole: Outcome) -> None:
    told = json.loads((whole.folder / "run.json").read_text())
    hits = hashlib.sha256((shop / "hits.parquet").read_bytes()).hexdigest()
    assert told["data"]["hits.parquet"] == hits
    assert told["plan"]["head_windows"] == SHORT.head_windows
    assert told["command"] == "intent train --data shop"
    assert (whole.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_shop_without_purchases_is_refused_before_training(shop: Path, tmp_path: Path) -> None:
    """A shop's own name for an order that nobody mapped."""
    hits = pq.read_table(shop / "hits.parquet")
    actions = ["0" if action == "6" else action for action in hits["action_type"].to_pylist()]
    at = hits.schema.get_field_index("action_type")
    pq.write_table(hits.set_column(at, "action_type", [actions]), tmp_path / "hits.parquet")
    (tmp_path / "sessions.parquet").write_bytes((shop / "sessions.parquet").read_bytes())
    with pytest.raises(IntentError, match=r"train instants of .* 0 have a purchase within 30 min, .*\[types\]\?$"):
        run(tmp_path, tmp_path)


def test_a_shop_whose_last_buyers_came_before_the_slice_that_chooses_is_refused(shop: Path, tmp_path: Path) -> None:
    """The network as it was before any training would be as good as all others."""
    hits = pq.read_table(shop / "hits.parquet")
    pairs = zip(hits["action_type"].to_pylist(), hits["timestamp_ms"].to_pylist(), strict=True)
    actions = ["0" if action == "6" and ms >= SPLITS.week_validation else action for action, ms in pairs]
    at = hits.schema.get_field_index("action_type")
    pq.write_table(hits.set_column(at, "action_type", [actions]), tmp_path / "hits.parquet")
    (tmp_path / "sessions.parquet").write_bytes((shop / "sessions.parquet").read_bytes())
    with pytest.raises(IntentError, match=r"^the [1-9]\d* instants .* that choose a checkpoint, .* have one outcome"):
        run(tmp_path, tmp_path)


def test_a_horizon_in_which_nobody_bought_has_no_say() -> None:
    """A small shop's week: the others still choose a checkpoint."""
    rng = np.random.default_rng(3)
    out = rng.normal(size=(200, 3)).astype(np.float32)
    y, counted = out > rng.normal(size=(200, 3)), np.ones((200, 3), np.bool_)
    y[:, 2] = False
    found = validation.measured(out, y, counted)
    told = [found[f"auc_{name}"] + found[f"ap_{name}"] for name in ("30m", "24h")]
    assert found["score"] == pytest.approx(sum(told) / 2)
    assert validation.measured(out, y & False, counted)["score"] == 0.0


def test_without_a_sessions_name_a_pause_opens_one_as_in_the_window(tmp_path: Path) -> None:
    minute, start = 60_000, making.START_MS
    times = {"u": [0, 10, 30, 70, 70, 200], "v": [5, 300]}
    told = sorted((at, user) for user, all_of in times.items() for at in all_of)
    events = [
        making.event(number, user_id=user, event_time=start + at * minute) for number, (at, user) in enumerate(told)
    ]

    class Shop(Sample):
        def __init__(self) -> None:
            self.splits = SPLITS

        @property
        def key(self) -> list[Any]:
            return []

        def events(self, *_: object) -> Iterator[Event]:
            return iter(events)

    found, kept = windows.build(Shop(), tmp_path)
    opened = Batch.of(kept.take(np.arange(len(kept))))
    theirs = np.array([user for _, user in told])
    assert found.session[theirs == "u"].tolist() == [0, 0, 0, 2, 2, 3]
    assert found.session[theirs == "v"].tolist() == [1, 4]
    for user in times:  # as many as the user's last window has opened
        last = int(np.flatnonzero(theirs == user)[-1])
        rows = slice(opened.first[last], opened.newest[last] + 1)
        assert len(np.unique(found.session[theirs == user])) == int(opened.rows.opens[rows].sum())


def test_a_sample_that_lacks_a_slice_is_refused_before_training(tmp_path: Path) -> None:
    samples.write(tmp_path, [samples.hit(timestamp_ms=START + 10 * 86_400_000)], [samples.session()])
    with pytest.raises(IntentError, match="has no validation instants"):
        train(
            tmp_path,
            tmp_path / "out",
            name="x",
            plan=PLAN,
            runs=tmp_path / "runs",
            draws=20,
            command="",
            say=lambda _: None,
            report=lambda _: None,
        )
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_there_stays_when_scoring_fails(shop: Path, small: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    out.write_text("before")
    engine = Engine(lambda: small, device="cpu")
    engine.close()
    with pytest.raises(IntentError, match="closed"):
        score(Sample(shop), out, engine=engine)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        pytest.param("scores.parquet", "shop[0-9]* cannot be scored: .*no room for the model", id="while it is scored"),
        pytest.param("absent/scores.parquet", "scores.parquet cannot be written: .*No such file", id="of the file"),
    ],
)
def test_an_error_is_laid_to_what_it_is_of(
    shop: Path, small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, says: str
) -> None:
    def refused(_: object) -> None:
        raise OSError(12, "no room for the model")

    with Engine(lambda: small, device="cpu") as engine:
        if place == "scores.parquet":
            monkeypatch.setattr(engine, "score_now", refused)
        with pytest.raises(IntentError, match=says):
            score(Sample(shop), tmp_path / place, engine=engine)
    assert not list(tmp_path.rglob("*.parquet"))


def test_score_and_model_on_the_command_line(shop: Path, trained: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = tmp_path / "scores.parquet"
    arguments = ["ga360", str(shop), "--out", str(out), "--bundle", str(trained), "--to", "2016-08-05", "--json"]
    scored = run(cli.app, ["score", *arguments])
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["rows"] == len(pq.read_table(out))
    assert pq.read_table(out)["timestamp_ms"].to_numpy().max() < START + 4 * 86_400_000
    listed = run(cli.app, ["model", "list", str(trained.parent), "--json"])
    assert [entry["state"] for entry in json.loads(listed.stdout)] == ["intact"]
    assert "Limits" in run(cli.app, ["model", "show", str(trained)]).stdout
    assert run(cli.app, ["model", "verify", str(trained)]).exit_code == 0
    kept = out.read_bytes()
    empty = run(cli.app, ["score", *arguments, "--from", "2016-07-01", "--to", "2016-07-02"])
    assert "has no event to score from --from to --to" in str(empty.exception)
    assert out.read_bytes() == kept
    named = run(cli.app, ["train", "--data", str(shop), "--out", "b", "--name", "my shop"])
    assert named.exit_code == 2
    assert "'my shop' is no model name" in " ".join(named.output.split())
    refused = run(cli.app, ["score", "ga360", str(shop), "--out", str(out), "--from", "yesterday"])
    assert refused.exit_code == 2
    assert "yesterday" in refused.output


@pytest.mark.parametrize("command", [["score", "ga360"], ["drift", "data"]], ids="-".join)
def test_scoring_offline_takes_the_threads_that_torch_takes_by_itself(
    command: list[str], shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody could give it fewer than the machine has."""
    seen: list[int | None] = []

    def made(_: object, *, threads: int | None, **__: object) -> None:
        seen.append(threads)
        raise IntentError("far enough")

    monkeypatch.setattr(engines, "Engine", made)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    out = ["--out", str(tmp_path / "scores.parquet")] if command[0] == "score" else []
    CliRunner().invoke(cli.app, [*command, str(shop), *out])
    assert seen == [7]
