"""The embedded broker: the real Apache Kafka on this machine, one node or more, started, stopped, broken on purpose.

For development, demos and tests. Owns the lives of its nodes; knows nothing of topics or of what is sent.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from worker.errors import IntentError
from worker.kafka import aot, jars, java
from worker.kafka.node import HEAP_MB, Java, Node, alive, plan, prepare, spawn, why_it_ended, written_to
from worker.ports import HOST

START_TIMEOUT_S = 180.0  # one that fails ends, and that is seen at once; a crowded machine took 34 s for the usual 3
STOP_TIMEOUT_S = 10.0
_MB_BESIDE_HEAP = 256  # measured: about 370 MB resident with a 512 MB heap that is not full
_POLL_S = 0.05


class EmbeddedBroker:
    """Kafka nodes below `folder`, as a context manager or by `start` and `stop`.

    `port` is the first node's client port (0: any free one). `properties` are added to every node's server properties,
    or replace ours; `java_options` are given in place of those for a quick start. A leashed broker dies with this
    process, even by SIGKILL. For one thread at a time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        port: int = 0,
        heap_mb: int = HEAP_MB,
        properties: Mapping[str, str] | None = None,
        java_options: Sequence[str] | None = None,
        leashed: bool = True,
    ) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self.processes: dict[int, psutil.Process] = {}
        self._count = nodes
        self._port = port
        self._heap_mb = heap_mb
        self._properties = dict(properties or {})
        self._java_options = java_options
        self._leashed = leashed
        self._java: Java | None = None

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to; empty before the start."""
        return ",".join(f"{HOST}:{node.client_port}" for node in self.nodes)

    def start(self) -> str:
        """Starts every node and waits until each answers. Returns the bootstrap servers.

        Blocks for about 4 s a node, longer when the jars must be fetched first. Data already in the folder is kept.
        Raises `IntentError` (no Java, port taken, jars unreachable, not enough memory, ...) and leaves nothing running.
        """
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.stop(timeout_s=0)
            raise
        return self.bootstrap_servers

    def launch(self) -> None:
        """The first half of `start`: the processes run, but may not answer yet."""
        self._check_folder()
        self.nodes = plan(self.folder, nodes=self._count, port=self._port)
        program = java.find()
        self._check_memory()
        classpath = jars.classpath()
        options = aot.options(program) if self._java_options is None else self._java_options
        self._java = Java(program, classpath, self._heap_mb, tuple(options))
        try:
            ready = partial(prepare, peers=self.nodes, java=self._java, extra=self._properties)
            with ThreadPoolExecutor(self._count) as threads:
                list(threads.map(ready, self.nodes))
            for node in self.nodes:
                self.processes[node.number] = spawn(node, self._java, leashed=self._leashed)
        except BaseException:
            self.stop(timeout_s=0)
            raise

    def wait_ready(self, numbers: Collection[int] | None = None) -> None:
        """Waits until the cluster's metadata lists these nodes (default: all of them)."""
        wanted = set(numbers or self.processes)
        internal = ",".join(f"{HOST}:{node.internal_port}" for node in self.nodes if node.number in wanted)
        admin = AdminClient({"bootstrap.servers": internal, "log_level": 0, "reconnect.backoff.max.ms": 200})
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for node in self.nodes:
                if node.number in wanted and not alive(self.processes[node.number]):
                    raise IntentError(why_it_ended(node))
            with suppress(KafkaException):
                if wanted <= admin.list_topics(timeout=1).brokers.keys():
                    return
            time.sleep(_POLL_S)  # a node that is up may not know the others yet
        raise IntentError(f"Kafka did not answer within {START_TIMEOUT_S:.0f} s; its log: {self.nodes[0].log}")

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Asks every node to end (SIGTERM), and ends what still runs after `timeout_s` (SIGKILL). Idempotent."""
        stop(self.processes.values(), timeout_s=timeout_s)
        self.processes.clear()

    def kill(self, number: int) -> None:
        """SIGKILL for one node, as a crash; returns when it is gone."""
        process = self.processes[number]
        process.kill()
        process.wait()

    def restart(self, number: int) -> None:
        """Starts a killed node again on its ports and data; returns when it answers."""
        assert self._java is not None, "start() comes first"
        node = self.nodes[number - 1]
        if alive(self.processes[number]):
            raise IntentError(f"Kafka node {number} is still running; kill it first")
        self.processes[number] = spawn(node, self._java, leashed=self._leashed)
        self.wait_ready({number})

    def pause(self, number: int) -> None:
        """SIGSTOP: the node keeps its ports and connections and answers nobody."""
        self.processes[number].suspend()

    def resume(self, number: int) -> None:
        """SIGCONT, after `pause`."""
        self.processes[number].resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_folder(self) -> None:
        make_folder(self.folder)
        held = len(list(self.folder.glob("data-*/meta.properties")))
        if held not in {0, self._count}:
            raise IntentError(
                f"{self.folder} holds the data of {held} Kafka node{'s' * (held > 1)}, not of {self._count}; "
                "choose another folder, or remove that one to start afresh"
            )

    def _check_memory(self) -> None:
        needed = self._count * (self._heap_mb + _MB_BESIDE_HEAP)
        available = psutil.virtual_memory().available // 2**20
        if available < needed:
            raise IntentError(
                f"not enough memory for the embedded broker: {self._count} node{'s' * (self._count > 1)} may take "
                f"{needed} MB, and {available} MB are available; stop something else, or ask for fewer nodes"
            )


def make_folder(folder: Path) -> None:
    """Does nothing where it is there. Raises `IntentError`."""
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)


def stop(processes: Collection[psutil.Process], *, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """SIGTERM to all, then SIGKILL to those left after `timeout_s` together. Processes already gone are no error.

    A cluster of several takes 5 s: its last nodes wait for a quorum that is gone. SIGKILL loses no data either.
    """
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if timeout_s > 0:
                process.terminate()
                process.resume()  # a paused node could not hear the first
    _, left = psutil.wait_procs(list(processes), timeout=timeout_s)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
