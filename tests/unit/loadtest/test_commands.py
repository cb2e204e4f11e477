"""Whole commands, with stand-ins for their slow parts: what is measured reaches the file, the table and the plot."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from typer.testing import CliRunner

from loadtest import models, openloop, origins, parts, pipeline, rolling, system, workload
from loadtest.__main__ import app
from loadtest.contenders.task import Taken
from loadtest.generator import MAX_US, Load, Sent
from loadtest.openloop import Result
from loadtest.scrape import Samples
from tests.unit.training import samples
from worker.errors import CheckFailed, SettingError
from worker.training import continual

DRAWN = {"stages", "continual"}
"""Commands with a plot."""

Run = Callable[..., tuple[Any, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command without the real sample: its document, and what it shows."""
    monkeypatch.setattr(workload, "sample_folder", lambda: None)

    def one(command: str, *options: str) -> tuple[Any, str]:
        done = CliRunner().invoke(app, [command, *options, "--out", str(tmp_path / "out")])
        if done.exception is not None:
            raise done.exception
        picture = tmp_path / "out" / f"{command}.png"
        assert picture.exists() == (command in DRAWN)
        assert not picture.exists() or picture.read_bytes().startswith(b"\x89PNG")
        return json.loads((tmp_path / "out" / f"{command}.json").read_bytes()), done.stdout

    return one


def test_stages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def profiled(_load: object, *, count: int, samples: Path) -> Taken:
        samples.write_text(json.dumps({"decode": 0.1, "event loop, sockets": 0.2}))
        return Taken(events=count, seconds=2.0, cpu_s=0.5)

    monkeypatch.setattr(parts, "measure", lambda *_: dict.fromkeys(parts.PARTS, 2.5))
    monkeypatch.setattr(pipeline, "profiled", profiled)
    document, shown = run("stages", "--events", "20000")
    assert document["events"] == {"source": "simulated shoppers", "count": 20_000}
    assert document["live"] == {"events_per_s": 10_000, "cpu_us_per_event": 25.0}
    assert document["us_per_event"]["decode"] == {"alone": 2.5, "live": 5.0}
    assert document["us_per_event"]["event loop, sockets"] == {"alone": None, "live": 10.0}
    (last,) = (line.split("│") for line in shown.splitlines() if line.startswith("│ all "))
    assert [cell.strip() for cell in last] == ["", "all", "35.0", "15.0", ""]


def test_gather(run: Run) -> None:
    document, shown = run("gather", "--batch", "16", "--rounds", "1")
    assert document["windows"]["source"] == "simulated shoppers"
    for mix, took in document["us_per_window"].items():
        assert took["for the device"] == pytest.approx(
            sum(took[part] for part in ("decode", "tokens", "contexts", "aggregates")), abs=0.01
        )
        assert f"{took['risk']:.2f}" != "0.00", mix
    assert "for the device" in shown


class Following:
    """Stands where a worker that follows a store does: its latencies, and its metrics."""

    def __init__(self, *, latency_us: int, models_a_look: int) -> None:
        self.latency_us = latency_us
        self._moved_in = count(step=models_a_look)
        self.challenged = False

    def measure(self, _workers: object, load: Load, *, warmup_s: float) -> Result:
        histogram = HdrHistogram(1, MAX_US, 3)
        for _ in range(round(load.count - load.rate * warmup_s) if self.latency_us else 0):
            histogram.record_value(self.latency_us)
        sent = Sent(p99_late_us=1, max_late_us=1)
        measured = histogram.get_total_count()
        return Result(
            load=load, measured=measured, missing=0 if measured else 1, repeated=0, sent=sent, histogram=histogram
        )

    def scrape(self, _workers: object) -> Samples:
        self.challenged = not self.challenged
        found: dict[tuple[str, ...], float] = {
            ("intent_model_reloads_total", "done"): next(self._moved_in),
            ("intent_shadow_scores_total",): 7,
            ("intent_shadow_dropped_total", "full"): 2,
        }
        return found | ({("intent_challenger_info", "1"): 1} if self.challenged else {})


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Callable[[Following], None]:
    """Has `models` measure the stand-in, which it is to tell its store and share."""

    def install(worker: Following) -> None:
        @contextmanager
        def running(*, model: Mapping[str, object], **_: object) -> Iterator[Sequence[object]]:
            assert model["shadow_share"] == 0.5
            yield [SimpleNamespace()]

        monkeypatch.setattr(system, "running", running)
        monkeypatch.setattr(openloop, "measure", worker.measure)
        monkeypatch.setattr(models, "scrape", worker.scrape)
        clock = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: 0.0, time_ns=lambda: 10**18)
        monkeypatch.setattr(models, "time", clock)

    return install


MODELS = ("models", "--rounds", "2", "--rate", "10", "--seconds", "3", "--share", "0.5")


def test_models(run: Run, follow: Callable[[Following], None]) -> None:
    follow(Following(latency_us=2000, models_a_look=1))
    document, shown = run(*MODELS)
    assert document["phases"].keys() == {"plain", "reload", "shadow"}
    assert {(phase["events"], phase["p50"]) for phase in document["phases"].values()} == {(60, 2.0)}
    assert document["models_moved_in"] > 0
    assert document["shadow"] == {"scores": 7, "dropped": {"full": 2}}
    assert "7 shadow scores, dropped: 2 full" in shown


def test_models_that_scored_nothing_are_told_all_the_same(run: Run, follow: Callable[[Following], None]) -> None:
    follow(Following(latency_us=0, models_a_look=1))
    with pytest.raises(CheckFailed, match="6 scores are missing or came twice"):
        run(*MODELS)


def test_models_of_which_none_moved_in_are_no_measurement(run: Run, follow: Callable[[Following], None]) -> None:
    follow(Following(latency_us=2000, models_a_look=0))
    with pytest.raises(CheckFailed, match="0 models moved in"):
        run(*MODELS)


def test_a_bundle_that_is_none_is_told_by_its_own_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=f"bundle {tmp_path / 'empty'}"):
        run("models", "--bundle", str(tmp_path / "empty"))


def test_continual(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    network = SimpleNamespace()
    monkeypatch.setattr(origins, "base", lambda *_, **__: SimpleNamespace(model=network, vocabulary=None))
    monkeypatch.setattr(origins.Judges, "probabilities", lambda judges, *_: rng.uniform(size=judges.y.shape))
    monkeypatch.setattr(continual, "fit", lambda *_, **__: SimpleNamespace(model=network))
    monkeypatch.setattr(rolling, "DRAWN", 1)
    shop = samples.shop(tmp_path, visitors=300, seed=7)
    places = ("--sample", str(shop), "--runs", str(tmp_path / "runs"))
    document, shown = run("continual", "--only", "anchored", "--draws", "10", *places)
    none, anchored = document["lines"]
    assert (none["label"], none["cpu_s"], len(none["weeks"])) == ("no refit", None, 3)
    assert (anchored["label"], len(anchored["cpu_s"]), len(anchored["weeks_against"])) == ("anchored", 3, 3)
    assert min(document["instants"]) > 0
    assert "AP in the week after each refit" in shown
