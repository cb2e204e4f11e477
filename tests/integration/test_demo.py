"""The whole demo, as a stranger runs it: without a terminal, with a crash in the middle, and interrupted."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

pytestmark = [pytest.mark.broker, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

DEMO = (sys.executable, "-m", "worker.cli", "demo", "--json", "--rate", "50", "--users", "60")


def test_nothing_is_lost_through_a_kill() -> None:
    run = subprocess.run([*DEMO, "--seconds", "8", "--kill-after", "3"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["holds"]
    assert told["worker_starts"] == 2
    assert sum(told["fates"].values()) == told["events"] > 200
    assert all(check["holds"] for check in told["checks"])
    assert "ready" in run.stderr


def test_an_interrupted_demo_checks_what_it_sent_and_leaves_no_process() -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stderr is not None
    heard = next(line for line in demo.stderr if "events/s" in line)
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) == 2, "a broker and a worker"
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate()
    assert demo.returncode == 0, heard + err
    assert json.loads(out)["holds"]
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert len(gone) == 2
    assert not alive


def test_a_terminated_demo_leaves_no_process() -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stderr is not None
    assert next(line for line in demo.stderr if "ready" in line)
    children = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(signal.SIGTERM)
    demo.communicate()
    assert demo.returncode == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
