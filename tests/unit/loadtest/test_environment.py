"""Environments of contenders: whole, or not there."""

from pathlib import Path

import pytest

from loadtest import environment
from worker.errors import IntentError
from worker.kafka import jars


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(jars, "repository", lambda: tmp_path / "maven")
    return tmp_path


def half_made(command: list[str], _what: str, *, then: BaseException) -> None:
    """What an installation leaves that does not come to its end."""
    if command[1:3] == ["-m", "venv"]:
        Path(command[-1]).mkdir()
        return
    raise then


@pytest.mark.parametrize("ended", [IntentError("no network"), KeyboardInterrupt(), SystemExit(143)], ids=repr)
def test_nothing_half_made_is_left(cache: Path, monkeypatch: pytest.MonkeyPatch, ended: BaseException) -> None:
    monkeypatch.setattr(environment, "_run", lambda command, what: half_made(command, what, then=ended))
    with pytest.raises(type(ended)):
        environment.quix(lambda _: None)
    assert list(cache.iterdir()) == []


def test_an_environment_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], _what: str) -> None:
        ran.append(command)
        if command[1:3] == ["-m", "venv"]:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(environment, "_run", run)
    said: list[str] = []
    python = environment.quix(said.append)
    assert environment.quix(said.append) == python
    assert len(ran) == 2
    (line,) = said
    assert f"into {python.parents[1]}; first time only" in line
    assert python.is_relative_to(cache)
