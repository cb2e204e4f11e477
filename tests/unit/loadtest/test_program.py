"""`python -m loadtest` as a program: what it refuses, and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from loadtest.__main__ import app

STOPPED = """
import signal, tempfile
from loadtest import __main__ as program

@program.app.command()
def slow(folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder):
        signal.raise_signal(signal.SIGTERM)

program.main()
"""


@pytest.mark.parametrize("command", sorted(get_command(app).commands))  # type: ignore[attr-defined]  # it is a group
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, [command, "--out", str(tmp_path / "file" / "folder")])
    assert done.exit_code == 2, done.output
    assert "Invalid value for '--out'" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_stop_leaves_no_folder_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPPED, "slow", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (143, "")
    assert list(tmp_path.iterdir()) == []
