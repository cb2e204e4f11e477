"""What ends the process, whatever stands still in it."""

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
