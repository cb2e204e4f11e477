"""The program as a person calls it, in this process: its command line, a deployment's settings, its exit code."""

import sys
from dataclasses import dataclass

import pytest

from tests.integration.deployment import variables
from worker import cli
from worker.settings import Settings


@dataclass(frozen=True)
class Called:
    """What a call came to."""

    code: int
    out: str
    err: str


def called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, settings: Settings, *arguments: object
) -> Called:
    """`intent ARGUMENTS` with these settings in its environment."""
    capsys.readouterr()
    with monkeypatch.context() as patch:
        for name, value in variables(settings):
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["intent", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    said = capsys.readouterr()
    code = end.value.code
    return Called(code if isinstance(code, int) else 0, said.out, said.err)
