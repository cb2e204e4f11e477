"""The studies of models: what is learnt and what is measured are apart, and a sample they cannot use is a sentence."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtest import adapting, foreign, origins, transfer
from loadtest.__main__ import app
from tests.unit.training import samples
from worker.errors import IntentError
from worker.facts import hash32
from worker.scoring.batch import Batch
from worker.shop.ga360 import Sample, parse_time
from worker.training import continual, windows
from worker.training.labels import START, Events, labels, member
from worker.training.windows import Windows

UNTIL = parse_time(adapting.BASE_UNTIL)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.shop(tmp_path_factory.mktemp("shop"), visitors=900, seed=7)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For `--runs`."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def data(shop: Path, cache: Path) -> tuple[Events, Windows]:
    return windows.build(Sample(shop), cache / "cache")


def test_what_is_forgotten_is_measured_on_visitors_that_no_model_learnt_from(data: tuple[Events, Windows]) -> None:
    events, kept = data
    old = origins.bystanders(events, kept, until_ms=UNTIL, one_in=2)
    assert len(old.places) > 20
    assert not (old.member & ~continual.known(events, from_ms=START, until_ms=UNTIL)[old.places]).any()
    for since, until in ((START, UNTIL), (UNTIL, parse_time("2016-09-14"))):
        parts = continual.split(events, since_ms=since, until_ms=until)
        for taught in (parts.new, parts.old, parts.watched_new, parts.watched_old):
            assert not np.isin(old.visitor, events.visitor[taught.any(axis=1)]).any()


def test_a_base_is_kept_for_the_same_data_and_plan_only(
    data: tuple[Events, Windows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, kept = data
    fitted = []
    fit = continual.fit

    def counted(*given: Any, **more: Any) -> Any:
        fitted.append(given)
        return fit(*given, **more)

    monkeypatch.setattr(continual, "fit", counted)
    plan = replace(origins.plan(1), batch_windows=64, bf16=False)
    others = replace(events, purchase=np.roll(events.purchase, 1))
    for each, common, trained in (
        (events, plan, 1),
        (events, plan, 1),
        (others, plan, 2),
        (events, replace(plan, forget=0.1), 3),
    ):
        origins.base(each, kept, until_ms=UNTIL, common=common, folder=tmp_path, report=lambda _: None, size=64)
        assert len(fitted) == trained


def test_the_time_of_a_contender_is_that_of_learning(
    data: tuple[Events, Windows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def fit(*_: Any, **__: Any) -> Any:
        clock[0] += 5
        history = [{"windows": 0.0, "score": -1.0, "old": 1.0}]
        return SimpleNamespace(model=None, history=history, trained_parameters=1)

    def probabilities(judges: origins.Judges, *_: Any) -> Any:
        clock[0] += 100
        return np.linspace(0, 1, judges.y.size).reshape(judges.y.shape)

    network = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(numel=lambda: 3)]))
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    monkeypatch.setattr(origins, "read", lambda *_: data)
    monkeypatch.setattr(origins, "base", lambda *_, **__: SimpleNamespace(model=network, vocabulary=None))
    monkeypatch.setattr(origins.Judges, "probabilities", probabilities)
    monkeypatch.setattr(continual, "fit", fit)
    done = CliRunner().invoke(app, ["peft", "--only", "lora", "--draws", "10", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    lines = json.loads((tmp_path / "peft.json").read_bytes())["lines"]
    assert [line["cpu_s"] for line in lines] == [0, 5]


def test_a_foreign_shop_has_other_names_for_the_same_things(data: tuple[Events, Windows]) -> None:
    _, kept = data
    places = np.arange(0, len(kept), 7)
    renamed = foreign.Foreign(kept.content, kept.ends, key=5).take(places)
    before, after = Batch.of(kept.take(places)), Batch.of(renamed)
    assert np.array_equal(before.heads.context, after.heads.context)
    for same in ("kind", "price_cents", "age_ms", "gap_ms", "sessions_back"):
        assert np.array_equal(getattr(before.rows, same), getattr(after.rows, same))
    for field in ("item", "category", "page"):
        names = {*zip(getattr(before.rows, field).tolist(), getattr(after.rows, field).tolist(), strict=True)}
        known = dict(names)
        assert len(names) == len(known) == len(set(known.values()))  # one to one
        assert known.pop(0, 0) == 0
        assert known
        assert all(was != is_ for was, is_ in known.items())


def test_foreigners_are_chosen_by_their_first_channel(data: tuple[Events, Windows]) -> None:
    events, kept = data
    _, first = np.unique(events.visitor, return_index=True)
    channels = Batch.of(kept.take(first)).heads.context[:, 0].tolist()
    known = {hash32(name) for name in foreign.CHANNELS}
    assert foreign.foreigners(events, kept).tolist() == [channels[visitor] in known for visitor in events.visitor]


def test_smaller_shares_of_the_visitors_are_parts_of_larger_ones() -> None:
    visitor = np.repeat(np.arange(500), 3)
    chosen = visitor % 2 == 0
    small, large = (foreign._drawn(visitor, chosen, share) for share in (0.1, 0.5))
    assert (len(np.unique(visitor[small])), len(np.unique(visitor[large]))) == (25, 125)
    assert not (small & ~large).any()
    assert not (large & ~chosen).any()


def test_a_donor_that_learnt_nothing_of_the_foreign_shop_is_not_compared_with_itself(
    data: tuple[Events, Windows],
) -> None:
    events, _ = data
    places = np.flatnonzero(member(events, "validation").any(axis=1))
    logits = np.random.default_rng(1).normal(size=(len(places), 3)).astype(np.float32)
    y = labels(events)
    (alone, *_), (beside, *_) = (
        foreign._compared(events, y, places, scores, draws=10, learnt=(0.0, 0, 0))
        for scores in ({"transfer": logits}, {"scratch": logits[::-1], "transfer": logits})
    )
    assert (alone.scratch, alone.difference) == (None, None)
    assert beside.scratch is not None
    assert beside.difference is not None
    assert beside.difference.value == pytest.approx(beside.transfer.value - beside.scratch.value)
    assert transfer.table([alone, beside], "made up").row_count == 2


def test_a_sample_of_one_channel_has_no_donor(shop: Path, cache: Path, tmp_path: Path) -> None:
    asked = ["transfer", "--sample", str(shop), "--runs", str(cache), "--out", str(tmp_path)]
    error = CliRunner().invoke(app, asked).exception
    assert isinstance(error, IntentError)
    assert "the donor's part of the sample has no training instants" in str(error)


def test_a_sample_without_machines_is_measured_all_the_same(shop: Path, cache: Path, tmp_path: Path) -> None:
    asked = ["risk", "--abusers", "20", "--sample", str(shop), "--runs", str(cache), "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, asked)
    found = json.loads((tmp_path / "risk.json").read_bytes()) if done.exception is None else {}
    assert found.get("bot_like_of") == 0, done.exception
    assert set(found["bot_like_found"].values()) == {0}
