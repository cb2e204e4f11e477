"""What `intent broker` says of folders that are none, and of odd names."""

import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from worker.errors import CheckFailed, IntentError
from worker.kafka import commands
from worker.kafka.commands import broker_app


@pytest.fixture
def program() -> typer.Typer:
    app = typer.Typer()
    app.add_typer(broker_app, name="broker")
    return app


@pytest.mark.parametrize("command", ["start", "status", "stop"])
def test_a_folder_that_is_a_file_is_an_error_of_ours(program: typer.Typer, tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.touch()
    done = CliRunner().invoke(program, ["broker", command, "--folder", str(file)])
    assert type(done.exception) is IntentError
    assert str(file) in str(done.exception)


def test_a_name_with_marks_is_said_as_it_is(program: typer.Typer) -> None:
    assert "no Kafka runs below [/x]" in CliRunner().invoke(program, ["broker", "stop", "--folder", "[/x]"]).output
    done = CliRunner().invoke(program, ["broker", "status", "--folder", "[/x]"])
    assert isinstance(done.exception, CheckFailed)


def test_a_suggested_command_is_one_for_a_shell(program: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["broker", "status", "--folder", str(tmp_path / "two words")])
    assert f"`intent broker start --folder '{tmp_path}/two words'` starts it" in str(done.exception)


def test_json_has_no_colours(program: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "out", Console(force_terminal=True, color_system="standard"))  # as FORCE_COLOR does
    done = CliRunner().invoke(program, ["broker", "status", "--folder", str(tmp_path), "--json"])
    assert json.loads(done.stdout) == {"running": False, "bootstrap_servers": "", "nodes": []}
