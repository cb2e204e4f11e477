"""Who teaches an update and who does not; what stops it; and a bundle's way to its successor."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.unit.scoring import making
from worker import cli
from worker.errors import IntentError
from worker.explain import codes
from worker.registry.compare import compare, paired
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle
from worker.scoring.head import Shape
from worker.scoring.model import build, weights
from worker.shop.ga360 import Sample, parse_time
from worker.training import continual, examples, finetune, finish, further, succession, windows
from worker.training.continual import JUDGING, WATCHED, Check, Split, Update
from worker.training.labels import HORIZONS_MS, NAMES, START, TEST, Events, labels
from worker.training.update import LEAST
from worker.training.windows import Windows

SHAPE = Shape(layers=1, hidden=32, heads=1, head_width=16)
PLAN = finetune.Plan(batch_windows=128, bf16=False, shape=SHAPE)
SINCE = parse_time("2016-09-03")


@pytest.fixture(scope="module")
def data(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Events, Windows]:
    return windows.build(Sample(shop), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def fresh(data: tuple[Events, Windows]) -> Bundle:
    """Untrained: there is something to gain."""
    _, kept = data
    torch.manual_seed(1)
    vocabulary = examples.learn_vocabulary(kept, np.arange(2000))
    network = build(SHAPE, vocabulary)
    examples.standardise(network, kept, np.arange(2000))
    return replace(making.bundle(name="shop"), shape=SHAPE, vocabulary=vocabulary, weights=weights(network))


def test_an_instant_is_new_when_its_horizon_ends(data: tuple[Events, Windows]) -> None:
    """Event by event, without the arrays."""
    events, _ = data
    until = SINCE + 7 * 86_400_000
    parts = continual.split(events, since_ms=SINCE, until_ms=until)
    new = parts.new | parts.watched_new | parts.judging
    (outage,) = events.splits.outages
    taught: dict[int, set[str]] = {}
    for n, (visitor, time, instant) in enumerate(zip(events.visitor, events.time_ms, events.instant, strict=True)):
        for at, horizon in enumerate(HORIZONS_MS):
            ends = time + horizon
            blind = ends > outage[0] and time < outage[1]
            assert new[n, at] == (instant and SINCE < ends <= until and not blind)
            old = bool(parts.old[n, at] or parts.watched_old[n, at])
            group = continual._group(events.visitor[n : n + 1])[0]
            assert old == bool(instant and START < ends <= SINCE and not blind and group != JUDGING)
        for role in ("new", "old", "watched_new", "watched_old", "judging"):
            if getattr(parts, role)[n].any():
                taught.setdefault(int(visitor), set()).add(role.partition("_")[0])
    for roles in taught.values():
        assert roles <= {"new", "old"} or len(roles) == 1
    assert {"new", "old", "watched", "judging"} == set().union(*taught.values())


def test_nothing_before_the_splits_start_is_known(data: tuple[Events, Windows]) -> None:
    """Though the horizons of its last days end behind it."""
    events, _ = data
    later = replace(events, splits=replace(events.splits, start=SINCE))
    found = continual.known(later, from_ms=SINCE, until_ms=TEST)
    before = events.time_ms < SINCE
    assert continual.known(events, from_ms=SINCE, until_ms=TEST)[before].any()
    assert not found[before].any()
    assert found[~before].any()


def test_the_groups_are_about_one_in_eight_each() -> None:
    group = continual._group(np.arange(8000))
    for each in (WATCHED, JUDGING):
        assert (group == each).mean() == pytest.approx(1 / 8, abs=0.02)


class Recording(Windows):
    """Remembers what was taken in batches of the size that a step has."""

    def __init__(self, kept: Windows) -> None:
        object.__setattr__(self, "content", kept.content)
        object.__setattr__(self, "ends", kept.ends)
        object.__setattr__(self, "steps", [])

    __slots__ = ("steps",)
    steps: list[Any]

    def take(self, places: Any) -> list[bytes]:
        if len(places) == PLAN.batch_windows:
            self.steps.append(places)
        return super().take(places)


@pytest.mark.parametrize("replay", [0.0, 0.25])
def test_a_step_mixes_new_and_old_of_visitors_that_teach(
    data: tuple[Events, Windows], fresh: Bundle, replay: float
) -> None:
    events, kept = data
    recording = Recording(kept)
    update = Update(since_ms=SINCE, until_ms=TEST, windows=1024, replay=replay, checks=1, watched_windows=200)
    continual.fit(fresh.model, fresh.vocabulary, events, recording, update, PLAN, report=lambda _: None)
    parts = continual.split(events, since_ms=SINCE, until_ms=TEST)
    assert len(recording.steps) == 8
    for places in recording.steps:
        old, new = np.split(places, [round(len(places) * replay)])
        assert parts.old[old].any(axis=1).all()
        assert parts.new[new].any(axis=1).all()
        assert not np.isin(continual._group(events.visitor[places]), [WATCHED, JUDGING]).any()


class Saying(nn.Module):
    """Gives every window the same logit."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, tokens: Tensor, *_: Tensor) -> Tensor:
        return torch.full((len(tokens), 3), self.logit)


@pytest.mark.parametrize(
    ("bound", "taken"), [pytest.param(0.0, False, id="no loss allowed"), pytest.param(1.0, True, id="double allowed")]
)
def test_a_checkpoint_that_forgets_beyond_the_bound_is_not_taken(
    data: tuple[Events, Windows], fresh: Bundle, bound: float, taken: bool
) -> None:
    """All new instants buy and no old one did: what suits the new is worse on the old."""
    events, kept = data
    parts = continual.split(events, since_ms=SINCE, until_ms=TEST)
    y = parts.watched_new.copy()
    update = Update(since_ms=SINCE, until_ms=TEST, bound=bound, watched_windows=400)
    only = Split(**{name: getattr(parts, name) for name in Split.__slots__})
    check = Check(fresh.vocabulary, kept, y, only, update, device=torch.device("cpu"))
    before, after = check(Saying(0.0)), check(Saying(0.5))
    assert after["new"] < before["new"]
    assert after["old"] == pytest.approx(np.log1p(np.exp(0.5)))
    assert (after["score"] > before["score"]) is taken


def test_the_anchor_holds_the_weights_back(data: tuple[Events, Windows], fresh: Bundle) -> None:
    events, kept = data
    moved = []
    for anchor in (0.0, 4.0):
        update = Update(
            since_ms=SINCE, until_ms=TEST, windows=1024, checks=1, bound=9, watched_windows=200, anchor=anchor
        )
        done = continual.fit(fresh.model, fresh.vocabulary, events, kept, update, PLAN, report=lambda _: None)
        pairs = zip(done.model.parameters(), fresh.model.parameters(), strict=True)
        moved.append(sum(float((one - other).detach().square().sum()) for one, other in pairs))
    assert 0 < moved[1] < moved[0] / 2


@pytest.mark.parametrize("method", [None, "lora", "bottleneck"])
def test_an_update_learns_what_there_is_to_learn(
    data: tuple[Events, Windows], fresh: Bundle, method: str | None
) -> None:
    events, kept = data
    update = Update(since_ms=SINCE, until_ms=TEST, windows=4096, method=method, learning_rate=3e-3, watched_windows=800)
    done = continual.fit(fresh.model, fresh.vocabulary, events, kept, update, PLAN, report=lambda _: None)
    assert done.history[-1]["new"] < done.history[0]["new"] - 0.05
    total = sum(parameter.numel() for parameter in fresh.model.parameters())
    assert (done.trained_parameters == total) is (method is None)
    if method != "bottleneck":
        places = np.flatnonzero(labels(events)[:, 1])[:50]
        served = finetune.predict(weights(done.model), fresh.vocabulary, kept, places)
        padded = continual.padded_logits(done.model, fresh.vocabulary, kept, places, device=torch.device("cpu"))
        assert np.abs(served - padded).max() < 1e-4


@pytest.mark.parametrize(("least", "kept_horizons"), [(1, [False, False, False]), (10**6, [True, True, True])])
def test_a_horizon_with_too_few_outcomes_keeps_its_calibration(
    data: tuple[Events, Windows], fresh: Bundle, least: int, kept_horizons: list[bool]
) -> None:
    events, kept = data
    watched = continual.split(events, since_ms=SINCE, until_ms=TEST).watched_new
    was, now = fresh.calibration, finish.calibrated(fresh, events, kept, watched, least=least).calibration
    assert (now.slopes == was.slopes).tolist() == (now.intercepts == was.intercepts).tolist() == kept_horizons


def test_reason_codes_and_drift_stay_where_there_is_nothing_to_learn_them_from(
    data: tuple[Events, Windows], fresh: Bundle
) -> None:
    """As for the labels of a few hours, of which none is the 24 h horizon's."""
    events, kept = data
    none: dict[str, Any] = {"taught": np.zeros(0, np.int64), "since_ms": SINCE, "until_ms": SINCE}
    assert finish.completed(fresh, events, kept, **none, about="no time", seed=1) == fresh


def test_no_percentiles_are_made_where_a_horizon_has_no_instants(data: tuple[Events, Windows], fresh: Bundle) -> None:
    events, kept = data
    watched = continual.split(events, since_ms=SINCE, until_ms=TEST).watched_new
    assert finish.calibrated(fresh, events, kept, watched).percentiles is not fresh.percentiles
    assert finish.calibrated(fresh, events, kept, watched & [True, True, False]).percentiles is fresh.percentiles


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def former(fresh: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("former")
    bundles.save(folder, fresh)
    return folder


def test_a_successor_says_what_it_continues_and_carries_the_comparison(
    shop: Path, data: tuple[Events, Windows], former: Path, tmp_path: Path
) -> None:
    events, kept = data
    before = bundles.load(former)
    options = ["--from", former, "--since", "2016-08-20", "--windows", 2048, "--learning-rate", 0.003, "--draws", 20]
    places = ["--data", shop, "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    result = invoke(
        *places, *options, "--precision", "float32", "--peft", "ia3", "--bound", 1, "--name", "mine", "--json"
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    made = bundles.load(tmp_path / "out")
    assert (said["version"], said["from"]) == (made.version, before.version)
    assert made.version != before.version
    assert (before.name, made.name) == ("shop", "mine")
    assert made.percentiles is not None
    assert made.drift is not None
    parts = continual.split(events, since_ms=parse_time("2016-08-20"), until_ms=TEST)
    bare = replace(made, calibration=before.calibration)
    watched = finish.calibrated(bare, events, kept, parts.watched_new, least=LEAST).calibration
    assert watched.slopes == pytest.approx(made.calibration.slopes)  # those who judge have no part in it
    assert watched.intercepts == pytest.approx(made.calibration.intercepts)
    taught = np.random.default_rng(PLAN.seed).permutation(np.flatnonzero((parts.new | parts.old)[:, 1]))
    by_worth = codes.weighed(made, kept.take(taught[: finish.WORTH_WINDOWS]), horizon=1)
    assert made.surrogate.weights == pytest.approx(by_worth.weights, abs=1e-6)
    for words in (before.version, "2016-08-20", "ia3", "judges"):
        assert words in made.card.partition("## Updated")[2]
    rows = compare(bundles.verify(former), bundles.verify(tmp_path / "out"))
    assert {row.horizon for row in rows} <= set(NAMES)
    day = next(row for row in rows if (row.horizon, row.metric) == ("24 h", "auc"))
    (pair,) = (each for each in said["comparison"] if each["horizon"] == "24 h")
    assert day.difference is not None
    assert day.difference[0] == pytest.approx(day.after[0] - day.before[0])
    assert day.after[0] == pair["after"]["auc"] > pair["before"]["auc"]


@pytest.mark.parametrize("later", [pytest.param(2.0, id="worse"), pytest.param(float("nan"), id="no number")])
def test_what_gains_nothing_leaves_the_former_in_place(
    shop: Path, former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: float
) -> None:
    losses = iter([1.0, *[later] * 100])

    def worse(check: Check, network: nn.Module) -> dict[str, float]:
        del check, network
        loss = next(losses)
        return {"new": loss, "old": 1.0, "score": -loss}

    monkeypatch.setattr(Check, "__call__", worse)
    places = ["--data", shop, "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    bundles.save(tmp_path / "refitted", replace(bundles.load(former), refitted=True))
    for bundle, said in ((former, False), (tmp_path / "refitted", True)):
        result = invoke(*places, "--from", bundle, "--since", "2016-09-01", "--windows", 1000, "--precision", "float32")
        assert "stays" in str(result.exception), result.output
        assert ("was refitted: it has learnt all" in " ".join(result.output.split())) is said
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--peft", "lora"], "--from"),
        (["--since", "2016-09-01"], "--from"),
        (["--from", "x", "--peft", "prefix"], "does not merge"),
        (["--from", "x", "--peft", "lore"], "none of head, lora, adalora, ia3 "),
        (["--from", "x", "--peft", "head", "--no-head"], "--no-head"),
        (["--from", "x", "--no-head"], "without --peft"),
        (["--from", "x", "--size", "mini"], "--size"),
        (["--from", "x", "--until", "2016-10-05"], "test slice"),
        (["--from", "x", "--since", "2016-09-05", "--until", "2016-09-01"], "--since"),
        (["--from", "x", "--since", "2099-01-01"], "2099-01-01 is not between"),
        (["--from", "x", "--until", "2016-07-01"], "2016-07-01 is not between"),
        (["--from", "x", "--since", "soon"], "soon"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(options: list[str], says: str, shop: Path, tmp_path: Path) -> None:
    result = invoke("--data", shop, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert says in result.output


def test_two_bundles_are_compared_on_any_slice(shop: Path, fresh: Bundle, tmp_path: Path) -> None:
    """One whose logits are turned around is worse, beyond the interval."""
    turned = copy.deepcopy(fresh.model)
    with torch.no_grad():
        for parameter in turned.head.fusion.answer.parameters():
            parameter.neg_()
    better, worse = sorted(
        [fresh, replace(fresh, weights=weights(turned))], key=lambda each: -day_auc(each, shop, tmp_path)
    )
    slice_: dict[str, Any] = {"since_ms": SINCE, "until_ms": TEST, "runs": tmp_path, "draws": 20}
    for before, after, judged in ((better, worse, True), (worse, better, False)):
        rows = paired(succession.compared(before, after, Sample(shop), **slice_))
        day = next(row for row in rows if (row.horizon, row.metric) == ("24 h", "auc"))
        assert day.worse is judged
    with pytest.raises(IntentError, match="too few labels"):
        succession.compared(better, worse, Sample(shop), **slice_ | {"until_ms": SINCE + 1})


def day_auc(bundle: Bundle, shop: Path, scratch: Path) -> float:
    """By scikit-learn, from the probabilities that are served: a longer horizon's are never below a shorter one's."""
    events, kept = windows.build(Sample(shop), scratch / "cache")
    places = np.flatnonzero(continual.known(events, from_ms=SINCE, until_ms=TEST)[:, 1])
    scores = bundle.calibration.probabilities(finetune.predict(bundle.weights, bundle.vocabulary, kept, places))
    return float(roc_auc_score(labels(events)[places, 1], scores[:, 1]))


def test_a_bundle_of_ones_own_shop_is_trained_further_on_its_own_table() -> None:
    further.check(["former", "data", "mapping", "bundle", "since"])
