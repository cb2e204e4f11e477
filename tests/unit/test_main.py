"""Signals, as the program hears them: in its first moment, and while a command works; its arguments and streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

IMPORTING = """
import os, signal, sys, time

class Stopping:
    def find_spec(self, name, *_):
        if name == "typer":
            try:
                os.kill(os.getpid(), signal.{signal})
                time.sleep(10)
            except BaseException as error:  # as a class does whose attribute is being named
                raise RuntimeError("an error of its own") from error

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests' shell has it ignored
sys.meta_path.insert(0, Stopping())
{start}
"""
STARTS = {
    "intent": "from worker.__main__ import main; main()",
    "python -m worker.cli": "import runpy; runpy.run_module('worker.cli', run_name='__main__')",
}
WORKING = """
import sys, tempfile, time
from worker import cli
from worker.__main__ import main

@cli.app.command()
def slow(folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder):
        print("begun", flush=True)
        for _ in range(6000):
            time.sleep(0.01)  # a signal right before a long one would be heard at its end

main()
"""


CALLED = """
import signal
from confluent_kafka import Producer
from worker.__main__ import unwind_when_stopped

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests' shell has it ignored
unwind_when_stopped()
stop = lambda _: signal.raise_signal(signal.{signal})
producer = Producer({{"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "error_cb": stop}})
try:
    while True:
        producer.poll(30)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


DROPPED = """
import signal, time
from worker import cli
from worker.__main__ import main

class Ending:
    def __del__(self):
        signal.raise_signal(signal.{signal})

@cli.app.command()
def slow() -> None:
    Ending()
    for _ in range(6000):
        time.sleep(0.01)

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests' shell has it ignored
main()
"""


NAMED = """
import signal
from worker import cli
from worker.__main__ import main

class Stopping:
    def __set_name__(self, *_):
        signal.raise_signal(signal.{signal})

@cli.app.command()
def slow() -> None:
    class Importing:
        attribute = Stopping()

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests' shell has it ignored
main()
"""


LOADING = """
import os, signal, sys
from worker.__main__ import unwind_when_stopped

class Stopping:
    def find_spec(self, name, *_):
        if name == "numpy.linalg":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)

unwind_when_stopped()
sys.meta_path.insert(0, Stopping())
import worker.scoring.engine
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_stop_before_any_command_is_no_traceback(start: str, number: signal.Signals) -> None:
    """It comes while the program imports its commands."""
    command = [sys.executable, "-c", IMPORTING.format(signal=number.name, start=start)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "")


def test_a_stop_is_heard_while_numpy_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (143, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_unwinds_a_command_that_kafkas_client_calls(number: signal.Signals) -> None:
    command = [sys.executable, "-c", CALLED.format(signal=number.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("program", [DROPPED, NAMED], ids=["in a finalizer", "while a class is made"])
def test_a_stop_is_heard_wherever_it_comes(program: str, number: signal.Signals) -> None:
    """As while a command imports: Python drops what a weak reference's callback raises, and 3.11 takes what comes while
    an attribute is named for the class's mistake.
    """
    command = [sys.executable, "-c", program.format(signal=number.name), "slow"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "terminal closed"])
def test_a_stop_unwinds_the_command(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", WORKING, "slow", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        assert len(list(tmp_path.iterdir())) == 1
        program.send_signal(number)
        if number == signal.SIGHUP:
            program.send_signal(number)
        assert program.wait(30) == 128 + number
        assert program.stderr is not None
        assert program.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    command = ["nohup", sys.executable, "-c", WORKING, "slow", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        program.send_signal(signal.SIGHUP)
        program.terminate()
        assert program.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(("closed", "said"), [("<&-", True), (">&-", False), ("2>&-", True), ("<&- >&- 2>&-", False)])
def test_a_closed_stream_is_the_null_device(closed: str, *, said: bool) -> None:
    program = [sys.executable, "-m", "worker", "config", "show", "--json"]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr, done.stdout != "") == (0, "", said)


def test_a_character_that_the_output_has_not_is_an_escape() -> None:
    program = [sys.executable, "-m", "worker", "dlq", "redrive", "--help"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "40"}
    done = subprocess.run(program, env=ascii_only, capture_output=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2026" in done.stdout


def test_a_name_that_is_no_text_is_refused() -> None:
    """The sample's reader had raised, in a traceback."""
    command = [sys.executable, "-m", "worker", "evaluate", "--data", os.fsdecode(b"a\xff")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    said = "intent: the argument 'a\\udcff' is no UTF-8; give what it names another name\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize("module", ["worker", "worker.cli"])
def test_what_looks_like_the_program_is_the_program(module: str) -> None:
    command = [sys.executable, "-m", module, "config", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, "nonsense" in done.stderr) == (2, True)
