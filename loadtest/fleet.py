"""Workers of one deployment, each a process that can be started, asked, stopped and killed by itself.

Knows nothing of load. A broker with one worker beside it is in `system`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import psutil
from pydantic import SecretStr

from loadtest.scrape import Samples, samples
from worker import config
from worker.errors import IntentError
from worker.kafka import topics
from worker.ops.page import body
from worker.ports import free_port
from worker.settings import Settings, leaves

_STOP_TIMEOUT_S: Final = 30.0
_ANSWER_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.02


def deployment(
    folder: Path,
    *,
    servers: str,
    partitions: int,
    worker: Mapping[str, object] | None = None,
    model: Mapping[str, object] | None = None,
) -> Settings:
    """Settings and topics of a deployment of its own. `worker` and `model` are further settings of these sections."""
    mark = f"loadtest-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    names = ("events", "scores", "latest", "dead_letters", "shadow")
    settings = config.load(
        {
            "kafka": {"bootstrap_servers": servers},
            "topics": {"partitions": partitions, **{name: f"{mark}.{name}" for name in names}},
            "worker": {"application_id": mark, "data_dir": folder / "state", "web_port": 0, **(worker or {})},
            "log": {"level": "info", "format": "json"},
            "model": model or {},
        }
    )
    topics.create(settings)
    return settings


class Member:
    """One worker, or what stands in its place: `module` is run with the settings. It keeps its state folder and its log
    over restarts.
    """

    def __init__(self, settings: Settings, folder: Path, *, name: str, module: str = "loadtest.constant") -> None:
        own = {"data_dir": folder / name, "web_port": free_port()}
        self.settings = settings.model_copy(update={"worker": settings.worker.model_copy(update=own)})
        self.log = folder / f"{name}.log"
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> psutil.Process:
        """The running one."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Returns at once."""
        with self.log.open("ab") as lines:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._module.split()],
                env={**os.environ, **dict(_variables(self.settings))},
                stdout=lines,
                stderr=lines,
            )

    def ready(self) -> bool:
        """Whether it owns what it should and works on it."""
        return self.page("readyz") is not None

    def page(self, path: str) -> bytes | None:
        """The body of a page; None while it is not answered with 200."""
        worker = self.settings.worker
        return body(path, host=worker.web_host, port=worker.web_port, timeout_s=5)

    def partitions(self) -> set[int]:
        """Those that it works on."""
        return {int(partition) for partition in self.metric("intent_watermark_offset")}

    def metric(self, name: str) -> dict[str, float]:
        """Samples of one metric with at most one label, by that label's value."""
        return {next(iter(labels), ""): value for (found, *labels), value in self._samples().items() if found == name}

    def metrics(self, *names: str) -> dict[str, float]:
        """The sums of these metrics over their labels, of one and the same scrape.

        Waits for a worker that is too busy to answer: zeros would be told as if they were its own. Raises `IntentError`
        where it ends, or does not answer for a minute.
        """
        pages: list[bytes | None] = []

        def answered() -> bool:
            pages.append(self.page("metrics"))
            return pages[-1] is not None

        self.until(answered, "it answers for its metrics", within_s=_ANSWER_TIMEOUT_S)
        sums = dict.fromkeys(names, 0.0)
        for (found, *_), value in samples((pages[-1] or b"").decode()).items():
            if found in sums:
                sums[found] += value
        return sums

    def _samples(self) -> Samples:
        return samples((self.page("metrics") or b"").decode())

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of this event."""
        lines = (line for line in self.log.read_bytes().splitlines() if line.startswith(b"{"))
        return [line for line in map(orjson.loads, lines) if line.get("event") == event]

    def until(self, condition: Callable[[], bool], what: str, *, within_s: float) -> None:
        """Poll until it holds. Raises `IntentError` with the log's end when the worker ends or the time is up."""
        deadline = time.monotonic() + within_s
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise IntentError(f"not within {within_s:g} s: {what}\n{self._last_lines()}")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raises `IntentError` with the log's end when the worker has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise IntentError(f"the worker ended, with {code}:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        """At once, with no chance to do anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """As an operator would; killed when it takes too long. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def at_work(members: Sequence[Member], *, within_s: float) -> Iterator[None]:
    """Started, each ready and at work on some of the partitions, one by itself on all; stopped at the end."""
    partitions = members[0].settings.topics.partitions

    def joined() -> bool:
        for member in members:
            member.check()
        if not all(member.ready() for member in members):
            return False
        owned = [member.partitions() for member in members]
        return len(members) == 1 or (all(owned) and sum(map(len, owned)) == partitions)

    with stopped_at_the_end(*members):
        for member in members:
            member.start()
        members[0].until(joined, "every worker has its partitions", within_s=within_s)
        yield


@contextmanager
def stopped_at_the_end(*members: Member) -> Iterator[None]:
    """Whatever happens."""
    try:
        yield
    finally:
        for member in members:
            member.stop()


@contextmanager
def paused(*members: Member) -> Iterator[None]:
    """They keep their partitions and do nothing meanwhile: for less than the session's time-out."""
    try:
        for member in members:
            member.process.suspend()
        yield
    finally:
        for member in members:
            member.process.resume()


def _variables(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, value in leaves(settings):
        if value is not None:
            shown = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            yield f"{config.PREFIX}{name.replace('.', '__')}".upper(), shown
