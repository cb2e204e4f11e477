"""What ends the process, whatever stands still in it."""

import json
import subprocess
import sys

import pytest

LATE = """
import os, threading
from worker.ops import logs
from worker.stream.watchdog import Watchdog
logs.configure(format="json")
watchdog = Watchdog()
watchdog.arm("something", 0.1)
watchdog.start()
{meanwhile}
threading.Event().wait()
"""


@pytest.mark.parametrize(
    "meanwhile", ["", "os.write(2, bytes(1 << 20))"], ids=["it waits", "nobody reads what it writes"]
)
def test_a_deadline_that_passes_ends_the_process(meanwhile: str) -> None:
    program = [sys.executable, "-c", LATE.format(meanwhile=meanwhile)]
    with subprocess.Popen(program, stderr=subprocess.PIPE) as late:
        try:
            assert late.wait(20) == 1
        finally:
            late.kill()


ENDING = """
from worker.errors import Fatal
from worker.ops import logs
from worker.stream.watchdog import end_process
logs.configure(format="json")
try:
    raise {error}
except Exception as error:
    end_process("it failed", error)
"""


@pytest.mark.parametrize(
    ("error", "shown", "traced"),
    [
        pytest.param("Fatal('set the clock') from None", "set the clock", False, id="it says all"),
        pytest.param("Fatal('no answer') from OSError(5)", "Fatal('no answer')", True, id="it has a cause"),
        pytest.param("OSError(5)", "OSError(5)", True, id="unexpected"),
        pytest.param("OSError(5) from ValueError(6)", "OSError(5)", True, id="unexpected, with a cause"),
        pytest.param("OSError(5) from Fatal('set the clock')", "set the clock", False, id="wrapped"),
    ],
)
def test_an_error_that_says_what_to_do_has_no_traceback(error: str, shown: str, *, traced: bool) -> None:
    program = [sys.executable, "-c", ENDING.format(error=error)]
    ended = subprocess.run(program, stderr=subprocess.PIPE, timeout=200, check=False)
    line = json.loads(ended.stderr)
    assert (ended.returncode, line["why"], line["error"]) == (1, "it failed", shown)
    assert ("exception" in line) == traced


TWICE = """
import os, threading
from worker.stream import watchdog
ending, end = threading.Barrier(2), os._exit
def hooked(code):
    os.write(1, b"hooked ")
    threading.Event().wait(0.5)  # while another one comes
    end(code)
os._exit = hooked
def leave():
    ending.wait()
    watchdog.exit_now(3)
threading.Thread(target=leave).start()
leave()
"""


def test_two_that_end_the_process_do_so_once() -> None:
    """Coverage saves what it measured where a process exits, and crashed in two threads at once."""
    ended = subprocess.run([sys.executable, "-c", TWICE], stdout=subprocess.PIPE, timeout=200, check=False)
    assert (ended.returncode, ended.stdout) == (3, b"hooked ")
