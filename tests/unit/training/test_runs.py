"""Which code a run was made with."""

import subprocess
from pathlib import Path

import pytest

from worker.training import runs


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit, of a file beside which the package is taken to lie."""
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "ann")
        monkeypatch.setenv(f"{name}_EMAIL", "ann@example.com")
    file = tmp_path / "runs.py"
    file.write_text("")
    for command in (["init"], ["add", file.name], ["commit", "-m", "all"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], capture_output=True, check=True)
    monkeypatch.setattr(runs, "__file__", str(file))
    return file


def test_the_commit_is_the_checkouts_and_says_where_files_were_changed(checkout: Path) -> None:
    commit = runs.commit()
    assert commit is not None
    assert len(commit) == 40
    checkout.write_text("changed")
    assert runs.commit() == f"{commit}+"


def test_a_package_installed_within_another_checkout_has_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout.parent / ".venv" / "runs.py"
    installed.parent.mkdir()
    installed.write_text("")
    monkeypatch.setattr(runs, "__file__", str(installed))
    assert runs.commit() is None


def test_outside_of_any_checkout_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    assert runs.commit() is None
