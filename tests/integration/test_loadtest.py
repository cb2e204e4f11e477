"""The load test, short, on a real broker and with a real worker process."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from loadtest import pipeline, population, recovery, scale, soak, workload
from loadtest.__main__ import app
from tests.loadtests import run_light
from worker.errors import IntentError

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]


def test_every_score_is_measured_of_the_worker_and_of_what_is_beside_it(kafka: str, tmp_path: Path) -> None:
    options = [
        "--rate",
        "200",
        "--seconds",
        "2",
        "--warmup",
        "1",
        "--settle",
        "0",
        "--partitions",
        "2",
        "--workers",
        "2",
        "--beside",
        "bare-exactly-once",
        "--out",
        str(tmp_path),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "latency", "--bootstrap-servers", kafka, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "latency.json").read_text())
    loads = {load["of"]: load for load in document["loads"]}
    assert loads.keys() == {"this worker", "bare-exactly-once"}
    assert [load["workers"] for load in loads.values()] == [2, 1]
    for load in loads.values():
        assert (load["warmup_seconds"], load["seconds"]) == (1, 2)
        assert (load["sent"], load["measured"], load["missing"], load["repeated"]) == (600, 400, 0, 0)
        latency = load["latency_ms"]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    parts = loads["this worker"]["parts_ms"]
    assert 0 < parts["- produce"] < parts["transaction, all of it"] < parts["event sent to batch committed"]
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("job", "count"), [("light", 7000), ("full", 3000)])
def test_contenders_outputs_are_counted(kafka: str, tmp_path: Path, *, job: str, count: int) -> None:
    options = ["--job", job, "--contender", "intent", "--contender", "bare", "--runs", "1", "--scale", "0.01", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "pipeline", "--bootstrap-servers", kafka, "--out", str(tmp_path), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "pipeline.json").read_text())
    contenders = document["jobs"][job]["contenders"]
    assert contenders.keys() == {"intent", "bare"}
    (run,) = contenders["intent"]["runs"]
    assert run["events"] == count
    assert run["seconds"] > 0 < run["cpu_s"]
    assert (tmp_path / "pipeline.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_fails_leaves_no_topics_on_brokers_that_others_use(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        raise IntentError("the contender ended with 1")

    monkeypatch.setattr(pipeline, "_start", ended)
    admin = AdminClient({"bootstrap.servers": kafka})

    def there() -> set[str]:
        return {topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(pipeline._MARK)}

    before = there()  # other measurements of this process, which think the broker their own
    with pytest.raises(IntentError, match="the contender ended with 1"):
        run_light(tmp_path, kafka)
    deadline = time.monotonic() + 15
    while left := there() - before:
        assert time.monotonic() < deadline, left


@pytest.fixture
def measured(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command on the tests' broker, with few simulated shoppers: its JSON, as printed and as written."""
    for module in (recovery, scale, soak):
        broker = nullcontext(SimpleNamespace(bootstrap_servers=kafka))
        monkeypatch.setattr(module, "EmbeddedBroker", lambda *_, broker=broker, **__: broker)
    monkeypatch.setattr(population, "_SIMULATED", 4_000)
    monkeypatch.setattr(workload, "sample_folder", lambda: None)

    def run(command: str, *options: str) -> Any:
        done = CliRunner().invoke(app, [command, *options, "--out", str(tmp_path), "--json"])
        if done.exception is not None:
            raise done.exception
        document = json.loads(done.stdout)
        assert document == json.loads((tmp_path / f"{command}.json").read_text())
        return document

    return run


def test_the_cost_of_users_is_measured(measured: Callable[..., Any]) -> None:
    document = measured("scale", "--part", "users", "--events", "20000", "--users", "500")
    (crowd,) = document["users"]
    assert crowd["users"] == 500
    assert min(crowd["events_per_s"], crowd["cpu_us_per_event"]) > 0
    assert (document["throughput"], document["rebalances"]["phases"]) == ([], [])


def test_a_soak_is_sampled_and_judged(measured: Callable[..., Any], tmp_path: Path) -> None:
    document = measured("soak", "--minutes", "0.1", "--every", "0.5", "--rate", "100")
    assert (document["rate"], document["capacity"], document["missing"]) == (100, None, 0)
    assert document["verdicts"].keys() == soak.BOUNDS.keys()
    first, *_, last = document["samples"]
    assert min(first[name] for name in ("memory_mb", "handles", "threads", "tasks")) > 0
    assert first["done_events"] < last["done_events"] <= 600
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_state_is_rebuilt_reopened_and_taken_over(measured: Callable[..., Any]) -> None:
    document = measured("recovery", "--records", "1000", "--stock-records", "1000", "--runs", "1", "--partitions", "2")
    (ours,), (theirs,), (reopened,) = (document[name] for name in ("rebuilds", "stock_rebuilds", "reopened"))
    assert (ours["records"], theirs["records"], reopened["records"]) == (1002, 1002, 0)
    assert ours["memory_mb"] > 0
    assert document["taken_over"]["seconds"] > 0
    assert document["windows"]["source"] == "simulated shoppers"
