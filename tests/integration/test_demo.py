"""The whole demo, as a stranger runs it: without a terminal, through a crash of the worker, and interrupted."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

pytestmark = [pytest.mark.broker, pytest.mark.chaos, pytest.mark.slow]

DEMO = (sys.executable, "-m", "worker", "demo", "--json", "--rate", "50", "--users", "60")


def started(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*DEMO, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def hear(demo: subprocess.Popen[str], words: str) -> str:
    """Everything said until the words come."""
    assert demo.stderr is not None
    heard = ""
    for line in demo.stderr:
        heard += line
        if words in line:
            return heard
    raise AssertionError(f"never heard {words!r} in:\n{heard}")


def test_nothing_is_lost_through_a_kill_and_ctrl_c_ends_with_the_checks() -> None:
    demo = started("--kill-after", "3")
    heard = hear(demo, "scoring again after")
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) == 2, "a broker and a worker"
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate()
    assert demo.returncode == 0, heard + err
    told = json.loads(out)
    assert told["holds"]
    assert told["worker_starts"] == 2
    assert sum(told["fates"].values()) == told["events"] > 200
    assert all(check["holds"] for check in told["checks"])
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_a_terminated_demo_leaves_no_process() -> None:
    demo = started()
    hear(demo, "starting the worker")
    children = psutil.Process(demo.pid).children(recursive=True)
    assert children
    demo.send_signal(signal.SIGTERM)
    demo.communicate()
    assert demo.returncode == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
