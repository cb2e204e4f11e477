"""The doctor's findings, with each part of the system ill in turn."""

import fcntl
import io
import json
import socket
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import confluent_kafka
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from worker import config, doctor
from worker.doctor import Finding
from worker.errors import CheckFailed, SettingError
from worker.kafka import clients, topics
from worker.kafka.topics import Difference
from worker.ops.health import State, liveness
from worker.registry import source
from worker.run import LOCK
from worker.scoring import bundle, engine
from worker.settings import Model, Settings, Worker

_WELL = State(recovered=True, engine_alive=True, broker_reachable=True, led=True, lag_events=0, since_progress_s=0.0)


@pytest.fixture(autouse=True)
def _well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system where all is well; each test breaks a part."""
    settings = Settings(worker=Worker(data_dir=tmp_path / "state", web_port=0))
    monkeypatch.setattr(config, "load", lambda: settings)
    described = SimpleNamespace(brokers={1: None}, cluster_id="c")
    monkeypatch.setattr(clients, "admin", lambda *_: SimpleNamespace(list_topics=lambda **_: described))
    monkeypatch.setattr(topics, "check", lambda _: [])
    monkeypatch.setattr(bundle, "load", lambda _: SimpleNamespace(name="shop", version="abc"))
    monkeypatch.setattr(engine, "tried", lambda loaded: loaded)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def _schemas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    for name in doctor.SCHEMAS:
        (tmp_path / "schemas" / name).write_text("{}")
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))


def wrong() -> list[Finding]:
    return [finding for finding in doctor.examine() if not finding.well]


def fail(error: Exception) -> object:
    raise error


def test_all_is_well() -> None:
    findings = list(doctor.examine())
    assert [finding for finding in findings if not finding.well] == []
    assert [finding.what for finding in findings] == [
        "settings",
        "brokers",
        "topics",
        "state folder",
        "web port",
        "schemas",
        "bundle",
        "device",
    ]


def test_a_wrong_setting_ends_the_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "load", lambda: fail(SettingError("the setting `x.y` is 3: at most 2 is accepted")))
    (finding,) = list(doctor.examine())
    assert finding.found == "the setting `x.y` is 3: at most 2 is accepted"


def test_no_broker_is_said_once_and_the_rest_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    down = confluent_kafka.KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._TRANSPORT))
    client = SimpleNamespace(list_topics=lambda **_: fail(down), poll=lambda _: 0)
    monkeypatch.setattr(clients, "admin", lambda *_: client)
    (finding,) = wrong()
    assert finding.found == "127.0.0.1:9092 does not answer within 5 s"
    assert "intent broker start" in finding.advice
    assert finding.advice == clients.Trouble().advice  # as every other command says it
    assert len(list(doctor.examine())) == 7  # all but the topics


def test_a_broker_that_does_not_let_us_in_is_not_one_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    down = confluent_kafka.KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._TRANSPORT))
    refused = confluent_kafka.KafkaError(confluent_kafka.KafkaError._AUTHENTICATION, "invalid credentials")

    def admin(_: object, trouble: clients.Trouble) -> object:
        return SimpleNamespace(list_topics=lambda **_: fail(down), poll=lambda _: trouble(refused))

    monkeypatch.setattr(clients, "admin", admin)
    (finding,) = wrong()
    assert finding.found == "127.0.0.1:9092 does not answer within 5 s (invalid credentials)"
    assert "the user and the password" in finding.advice


def test_each_difference_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [
        Difference("a", "topic", "missing", "created"),
        Difference("b", "partitions", "3", "4"),
        Difference("c", "retention.ms", "1", "2"),
    ]
    monkeypatch.setattr(topics, "check", lambda _: differences)
    missing, other, config = wrong()
    assert missing.advice == "`intent topics create`"
    assert other.found == "b: partitions is 3, wanted 4"
    assert other.advice.startswith("set `topics.partitions` to 3")  # adding some would part users from their windows
    assert config.advice == "change it to 2 with Kafka's own tools"


def test_a_part_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "load", lambda _: fail(RuntimeError("torn")))
    (finding,) = wrong()
    assert (finding.what, finding.found) == ("bundle", "RuntimeError: torn")


def test_a_schema_is_missing(tmp_path: Path) -> None:
    (tmp_path / "schemas" / doctor.SCHEMAS[1]).unlink()
    (finding,) = wrong()
    assert doctor.SCHEMAS[1] in finding.found


def test_a_state_folder_below_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    settings = Settings(worker=Worker(data_dir=tmp_path / "file" / "state", web_port=0))
    monkeypatch.setattr(config, "load", lambda: settings)
    (finding,) = wrong()
    assert "worker.data_dir" in finding.advice


def test_the_state_folder_of_a_worker_that_runs_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "state, of a worker that runs, " in _state_folder().found
    assert "state, of" not in _state_folder().found


def _state_folder() -> Finding:
    (finding,) = (finding for finding in doctor.examine() if finding.what == "state folder")
    assert finding.well
    return finding


class _Page(BaseHTTPRequestHandler):
    """Answers as a worker does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(liveness(_WELL).body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_taken_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.1)
        port = other.getsockname()[1]
        monkeypatch.setattr(config, "load", lambda: Settings(worker=Worker(web_port=port)))
        (finding,) = wrong()
    assert finding.found.startswith(f"the setting `worker.web_port` is {port}, which is taken on '127.0.0.1'")


def test_a_port_that_a_worker_has_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.handle_request, daemon=True).start()
        port = server.server_port
        monkeypatch.setattr(config, "load", lambda: Settings(worker=Worker(web_port=port)))
        found = [finding for finding in doctor.examine() if finding.what == "web port"]
    assert found == [Finding("web port", f"{port} on 127.0.0.1, of a worker that runs")]


def test_a_model_of_a_store_is_looked_at_past_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which belongs to the workers, and forgets a version for each that comes."""
    loaded = SimpleNamespace(name="shop", version="abc")
    there = SimpleNamespace(load=lambda version: loaded if version == "abc" else None)
    of_store = SimpleNamespace(version=lambda _: "abc", fresh=lambda: nullcontext(there))
    monkeypatch.setattr(source, "configured", lambda _: (of_store, lambda: fail(AssertionError("into the cache"))))
    assert wrong() == []


def test_a_model_whose_scores_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine, "tried", lambda _: fail(SettingError("model shop abc gives scores that are not numbers"))
    )
    (finding,) = wrong()
    assert (finding.what, finding.found) == ("bundle", "model shop abc gives scores that are not numbers")


def test_cuda_is_wanted_and_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "load", lambda: Settings(worker=Worker(web_port=0), model=Model(device="cuda")))
    assert [finding.what for finding in wrong()] == ["device"]


@pytest.mark.parametrize(("wanted", "told"), [(3, "cpu, 3 threads for the model"), (1, "cpu, 1 thread for the model")])
def test_as_many_threads_are_told_as_a_worker_scores_with(
    monkeypatch: pytest.MonkeyPatch, wanted: int, told: str
) -> None:
    model = Model(device="cpu", threads=wanted)
    monkeypatch.setattr(config, "load", lambda: Settings(worker=Worker(web_port=0), model=model))
    assert [finding.found for finding in doctor.examine() if finding.what == "device"] == [told]


@pytest.fixture
def program() -> typer.Typer:
    app = typer.Typer()
    app.command()(doctor.check)
    return app


def test_the_command_says_it_in_json(program: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(program, ["--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["ok"] is True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: fail(RuntimeError("driver")))
    done = CliRunner().invoke(program, ["--json"])
    assert isinstance(done.exception, CheckFailed)
    assert json.loads(done.stdout)["ok"] is False


def test_the_command_says_it_in_a_table(program: typer.Typer) -> None:
    done = CliRunner().invoke(program)
    assert done.exit_code == 0
    assert "all as declared" in done.stdout


def test_a_long_path_is_whole_on_a_narrow_terminal(program: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(doctor, "out", terminal)
    where = Path("/srv") / ("a-folder-of-models/" * 5) / "shop"
    monkeypatch.setattr(config, "load", lambda: Settings(worker=Worker(web_port=0), model=Model(bundle=where)))
    assert CliRunner().invoke(program).exit_code == 0
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert max(map(len, shown.splitlines())) <= 80
    found = "".join(line.split("│")[3].strip() for line in shown.splitlines() if line.startswith("│"))
    assert f"in{where}," in found.replace(" ", "")
