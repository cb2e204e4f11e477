"""What the command line refuses before anything is started, and what it costs to ask it."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest import workload
from loadtest.__main__ import app
from loadtest.options import chosen
from worker.errors import SettingError

KNOWN = ("one", "two", "three")


@pytest.mark.parametrize(
    ("named", "found"),
    [
        pytest.param(None, ["one", "two", "three"], id="all"),
        pytest.param(["three", "one"], ["one", "three"], id="in the order of the known"),
        pytest.param(["two", "two"], ["two"], id="each once"),
    ],
)
def test_chosen_are_the_named_ones_or_all(named: list[str] | None, found: list[str]) -> None:
    assert chosen("--only", named, KNOWN) == found


def test_one_that_is_not_known_is_refused_with_what_is() -> None:
    with pytest.raises(SettingError, match="--only is 'four'; accepted are one, two, three"):
        chosen("--only", ["one", "four"], KNOWN)


@pytest.mark.parametrize(
    ("command", "option"),
    [("state", "--case"), ("peft", "--only"), ("continual", "--only")],
)
def test_every_choice_by_name_is_checked_before_anything_else(command: str, option: str) -> None:
    error = CliRunner().invoke(app, [command, option, "four"]).exception
    assert isinstance(error, SettingError)
    assert f"{option} is 'four'; accepted are " in str(error)


def test_results_that_could_not_be_written_are_not_measured(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    refused = CliRunner().invoke(app, ["state", "--out", str(tmp_path / "taken")])
    assert refused.exit_code == 2
    assert "'--out'" in refused.output


def test_a_sample_that_is_named_is_never_replaced_by_simulated_shoppers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTENT_GA360", "nowhere")
    assert workload.sample_folder() == Path("nowhere")
    assert workload.needed_sample(None) == Path("nowhere")
    assert workload.needed_sample(Path("here")) == Path("here")


def test_a_study_without_the_sample_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTENT_GA360", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="name its folder with --sample or INTENT_GA360"):
        workload.needed_sample(None)


def test_the_help_does_not_load_what_takes_seconds() -> None:
    heavy = ["torch", "transformers", "numba"]
    program = f"import sys, loadtest.__main__; sys.exit(', '.join(sys.modules.keys() & {heavy}) or None)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
