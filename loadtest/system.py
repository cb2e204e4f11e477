"""What is loaded: a broker, its topics and one worker, started as an operator would and gone afterwards.

Knows nothing of load. The worker is a process of its own, so that its interpreter is not shared with the measurement.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal

from loadtest.contenders.live import EXACTLY_ONCE
from loadtest.contenders.task import Job
from worker import config
from worker.errors import IntentError
from worker.kafka import topics
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port
from worker.settings import Settings

Program = Literal["constant", "bundle", "bare", "bare-exactly-once"]
"""The worker with a scorer that costs nothing, or with the model; or what it is compared with (`contenders.live`)."""
_READY_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.1


@contextmanager
def running(
    *,
    program: Program,
    partitions: int,
    servers: str | None,
    job: Job = "full",
    model: Mapping[str, object] | None = None,
) -> Iterator[Settings]:
    """A worker that is ready, with the settings to reach its topics. With the model there is only the job *full*.

    `model` are settings of that section. `servers` are the user's own brokers, where topics of this run's own are made;
    without them a broker is started. Raises `IntentError` with the worker's last lines when it does not become ready.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intent-loadtest-")))
        if servers is None:
            servers = stack.enter_context(EmbeddedBroker(folder / "kafka")).bootstrap_servers
        settings = _settings(
            folder, mark=f"loadtest-{os.getpid()}-{program}", servers=servers, partitions=partitions, model=model or {}
        )
        topics.create(settings)
        stack.enter_context(_worker(settings, folder / "worker.log", command=_command(program, job)))
        yield settings


def _command(program: Program, job: Job) -> list[str]:
    match program:
        case "bundle":
            return ["loadtest.waits"]
        case "constant":
            return ["loadtest.constant", job]
        case "bare":
            return ["loadtest.contenders.live", job]
        case "bare-exactly-once":
            return ["loadtest.contenders.live", job, EXACTLY_ONCE]


def _settings(folder: Path, *, mark: str, servers: str, partitions: int, model: Mapping[str, object]) -> Settings:
    names = ("events", "scores", "latest", "dead_letters", "shadow")
    return config.load(
        {
            "kafka": {"bootstrap_servers": servers},
            "topics": {"partitions": partitions, **{name: f"{mark}.{name}" for name in names}},
            "worker": {"application_id": mark, "data_dir": folder / "state", "web_port": free_port()},
            "log": {"level": "warning", "format": "json"},
            "model": model,
        }
    )


@contextmanager
def _worker(settings: Settings, log: Path, *, command: Sequence[str]) -> Iterator[None]:
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **_environment(settings)},
            stdout=lines,
            stderr=lines,
        )
    try:
        _await_ready(process, settings, log)
        yield
        if process.poll() is not None:
            raise IntentError(f"the worker ended during the test, with {process.returncode}:\n{_last_lines(log)}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(settings: Settings) -> dict[str, str]:
    """The settings that differ from the defaults, as variables: the worker reads them as it would an operator's."""
    sections = {"kafka": ("bootstrap_servers",), "log": ("level", "format")}
    sections["topics"] = ("events", "scores", "latest", "dead_letters", "shadow", "partitions")
    sections["worker"] = ("application_id", "data_dir", "web_port")
    sections["model"] = tuple(name for name, value in settings.model if value is not None)
    return {
        f"INTENT_{section}__{name}".upper(): str(getattr(getattr(settings, section), name))
        for section, names in sections.items()
        for name in names
    }


def _await_ready(process: subprocess.Popen[bytes], settings: Settings, log: Path) -> None:
    url = f"http://{settings.worker.web_host}:{settings.worker.web_port}/readyz"
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise IntentError(f"the worker ended before it was ready, with {process.returncode}:\n{_last_lines(log)}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    raise IntentError(f"the worker was not ready within {_READY_TIMEOUT_S:.0f} s:\n{_last_lines(log)}")


def _last_lines(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
