"""A deployment under test: one worker process on a real broker, and plain readers of its topics.

Starts the program as a supervisor would, through its command line and environment. What comes out is read with a
consumer of its own and handed on as raw bytes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from worker.ops.page import body
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
DIGEST = (sys.executable, "-m", "tests.chaos.digest")
"""The worker with a scorer that needs no torch; `PYTHONPATH` has to name `ROOT`."""
WAIT_S = 90.0
_POLL_S = 0.05
_MARKERS_S = 5.0
_SECRETS = ("sasl_password",)


@dataclass(frozen=True)
class Read:
    """One record as a consumer gets it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    timestamp_ms: int


@dataclass
class Worker:
    """The worker's process. `settings` name its topics, folder and port; `command` replaces the program."""

    settings: Settings
    log: Path
    command: tuple[str, ...] = (sys.executable, "-m", "worker", "worker")
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True, stdin: int | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | dict(variables(self.settings)) | dict(self.environment),
                stdin=stdin,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        until(lambda: self.get("readyz") is not None, self, "the worker is ready")

    def get(self, path: str) -> bytes | None:
        """The body of a page; `None` while it is not answered with 200."""
        return body(path, host="127.0.0.1", port=self.settings.worker.web_port, timeout_s=5)

    def metric(self, name: str) -> dict[tuple[str, ...], float]:
        """Samples of one metric, by their labels' values."""
        text = (self.get("metrics") or b"").decode()
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """The exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.await_end()

    def await_end(self) -> int:
        """The exit code of a worker that ends by itself, or was told to."""
        assert self.process is not None
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        if self.process is not None and psutil.pid_exists(self.process.pid):
            self.process.kill()
            self.process.wait(WAIT_S)

    def said(self) -> str:
        """The end of its log, for a person: how much else is there depends on how busy the machine was."""
        return self.log.read_text(errors="replace")[-4000:]

    def told(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of its log so far, or those of an event. One that is still being written is none."""
        *whole, _ = self.log.read_text(errors="replace").split("\n")
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in lines if event is None or line.get("event") == event]


def variables(settings: Settings) -> Iterable[tuple[str, str]]:
    """The settings as environment variables."""
    for section, part in settings:
        for name, value in part:
            if value is not None and name not in _SECRETS:
                yield f"INTENT_{section}__{name}".upper(), str(value)


def until(condition: Callable[[], bool], worker: Worker, what: str, within_s: float = WAIT_S) -> None:
    """Poll until it holds; fails with the worker's log when it ends first or the time is up."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert worker.process is None or worker.process.poll() is None, (
            f"the worker ended, waiting for: {what}\n{worker.said()}"
        )
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}\n{worker.said()}"
        time.sleep(_POLL_S)


class Topic:
    """Follows one topic from its beginning, all partitions."""

    def __init__(self, servers: str, topic: str, *, isolation: str = "read_committed") -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "test-reader",
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        partitions = self._consumer.list_topics(topic, timeout=WAIT_S).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        self._topic = topic
        self._ends: dict[int, int] = {}
        """Where a reader's partition ended when it was last there."""
        self._partitions = set(partitions)
        self.records: list[Read] = []

    def poll(self) -> list[Read]:
        """What has come since; also appended to `records`."""
        new = []
        for message in self._consumer.consume(5000, timeout=_POLL_S):
            error = message.error()
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                assert offset is not None
                self._ends[partition] = offset
                continue
            self._ends.pop(partition, None)
            assert offset is not None
            headers = {name: value for name, value in dict(message.headers() or []).items() if isinstance(value, bytes)}
            new.append(Read(partition, offset, message.key(), message.value(), headers, message.timestamp()[1]))
        self.records += new
        return new

    def reaches(self, count: int) -> bool:
        """Whether so many records have come by now."""
        self.poll()
        return len(self.records) >= count

    def drain(self) -> list[Read]:
        """All records up to the ends of the partitions.

        A commit is acknowledged before its markers are written, and its records are read only behind them; so where
        more is written than may be read yet, that is waited for, unless it stays so: a killed worker's transaction.
        How long that is counts from where reading got to, since reading may take as long on a busy machine.
        """
        self._ends.clear()
        at, since_s = -1, 0.0
        while self._ends.keys() != self._partitions or self._more_is_written():
            self.poll()
            whole = len(self._ends) + sum(self._ends.values())
            if self._ends.keys() != self._partitions or whole != at:
                at, since_s = whole, time.monotonic()
            elif time.monotonic() - since_s > _MARKERS_S:
                break
        return self.records

    def _more_is_written(self) -> bool:
        written = (
            (end, self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), cached=True)[1])
            for number, end in self._ends.items()
        )
        return any(end < last for end, last in written)

    def close(self) -> None:
        self._consumer.close()


def read_all(servers: str, topic: str, *, isolation: str = "read_committed") -> list[Read]:
    """Everything that a reader of the topic sees."""
    reader = Topic(servers, topic, isolation=isolation)
    try:
        return reader.drain()
    finally:
        reader.close()


def publish(servers: str, topic: str, records: Iterable[tuple[bytes | None, bytes | None, dict[str, bytes]]]) -> int:
    """(key, value, headers) each, partitioned by key as Java clients do; waits for all acknowledgements."""
    errors: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "enable.idempotence": True,
            "max.in.flight.requests.per.connection": 1,  # brokers die under some tests: see `tests.chaos.traffic`
        }
    )
    producer.list_topics(topic, timeout=WAIT_S)  # connected by now, it gets its id at once and not after 0.5 s
    count = 0
    for key, value, headers in records:
        producer.produce(
            topic,
            value,
            key,
            headers=list(headers.items()),
            on_delivery=lambda error, _: errors.append(error) if error else None,
        )
        producer.poll(0)
        count += 1
    assert producer.flush(WAIT_S) == 0
    assert not errors, errors[:3]
    return count
