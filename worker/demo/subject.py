"""The worker that the demo shows: a process of its own, started, asked, killed and stopped as a supervisor would.

Only its command line, environment, web pages and signals are used. Knows nothing of what it does.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from worker.config import PREFIX
from worker.errors import IntentError
from worker.kafka import leash
from worker.ops.page import body
from worker.settings import Settings, leaves

READY_TIMEOUT_S: Final = 120.0
_PAGE_TIMEOUT_S: Final = 1.0
_POLL_S: Final = 0.1
_STOP_TIMEOUT_S: Final = 30.0
_MAX_WORDS: Final = 400


@dataclass(frozen=True, slots=True)
class Told:
    """What `/metrics` says: events by fate since the process began, and the last offset done by partition."""

    fates: dict[str, int]
    watermarks: dict[int, int]


class Subject:
    """One worker process at a time. `settings` name its port and folders; `log` takes all that it prints.

    Not for use from several threads; the starting thread must outlive the process, which dies with it.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        self.lives = 0
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0
        self._told = Told({}, {})
        self._former: Counter[str] = Counter()
        self._watermarks: dict[int, int] = {}

    def start(self) -> None:
        """Starts it and returns at once."""
        self.lives += 1
        command = [sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())]
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                [*command, sys.executable, "-m", "worker", "worker"],
                env=dict(_environment(self._settings)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the demo, which then stops it in order
            )

    def await_ready(self) -> None:
        """Waits until `/readyz` answers 200. Raises `IntentError` when it ends or takes too long."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._page("readyz") is None:
            self.check_alive()
            if time.monotonic() > deadline:
                raise IntentError(f"the worker was not ready within {READY_TIMEOUT_S:.0f} s; {self._last_words()}")
            time.sleep(_POLL_S)

    def ready(self) -> bool:
        """Whether events that arrive now get scores."""
        return self._page("readyz") is not None

    def check_alive(self) -> None:
        """Raises `IntentError`, with what its log says of the cause, when the process has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise IntentError(f"the worker ended with exit code {code}; {self._last_words()}")

    def kill(self) -> None:
        """SIGKILL, as a crash; returns when it is gone. Its counters begin anew after the next start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._former.update(self._told.fates)
        self._told = Told({}, {})

    def stop(self) -> int:
        """SIGTERM, then SIGKILL when it does not end in time; the exit code. Idempotent."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def ask(self) -> bool:
        """Reads `/metrics` once; False when it does not answer, and the former answer stays."""
        page = self._page("metrics")
        if page is None:
            return False
        self._told = read_metrics(page.decode())
        self._watermarks.update(self._told.watermarks)
        return True

    @property
    def fates(self) -> Counter[str]:
        """Events by fate over all lives. What a killed process counted after it was last asked is missing."""
        return self._former + Counter(self._told.fates)

    @property
    def done(self) -> int:
        """Source records done in all partitions together, as last told."""
        return sum(offset + 1 for offset in self._watermarks.values())

    def _page(self, name: str) -> bytes | None:
        worker = self._settings.worker
        return body(name, host=worker.web_host, port=worker.web_port, timeout_s=_PAGE_TIMEOUT_S)

    def _last_words(self) -> str:
        said = self.log.read_bytes()[self._log_from :].decode(errors="replace") if self.log.exists() else ""
        return f"{why(said)} (its log: {self.log})"


def why(said: str) -> str:
    """The cause in what a worker said before it ended: its own sentence, else the first error that it logged."""
    lines = said.strip().splitlines()
    if not lines or lines[-1].startswith("intent: "):
        return lines[-1].removeprefix("intent: ") if lines else "it said nothing"
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and told.get("level") in {"error", "critical"}:
            exception = str(told.get("exception", "")).strip().splitlines()
            return f"{told.get('event')} {exception[-1] if exception else ''}".strip()[:_MAX_WORDS]
    return lines[-1][:_MAX_WORDS]


def read_metrics(page: str) -> Told:
    """The demo's part of a Prometheus page."""
    fates: dict[str, int] = {}
    watermarks: dict[int, int] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "intent_events_total":
                fates[sample.labels["fate"]] = int(sample.value)
            elif sample.name == "intent_watermark_offset":
                watermarks[int(sample.labels["partition"])] = int(sample.value)
    return Told(fates, watermarks)


def _environment(settings: Settings) -> Iterator[tuple[str, str]]:
    """That of this process, with the settings in place of what it says of them."""
    yield from ((name, value) for name, value in os.environ.items() if not name.startswith(PREFIX))
    for name, value in leaves(settings):
        if value is not None and not isinstance(value, SecretStr):
            yield PREFIX + name.replace(".", "__").upper(), str(value)
