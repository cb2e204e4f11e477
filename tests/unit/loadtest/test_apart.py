"""A function in a process of its own."""

import os
import signal
import time

import pytest

from loadtest import apart


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)


def test_an_interrupted_one_ends_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    process = apart.started(interrupted)
    process.join(60)
    assert process.exitcode == 130
    assert capfd.readouterr().err == ""
