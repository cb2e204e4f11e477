"""The load test, short, on a real broker and with a real worker process."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from loadtest import pipeline
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
    with pytest.raises(IntentError, match="the contender ended with 1"):
        pipeline.pipeline(
            job="light",
            contender=[pipeline.Contender.BARE],
            runs=1,
            scale=0.001,
            bootstrap_servers=kafka,
            folder=tmp_path,
        )
    admin, deadline = AdminClient({"bootstrap.servers": kafka}), time.monotonic() + 15
    while left := [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(pipeline._MARK)]:
        assert time.monotonic() < deadline, left
