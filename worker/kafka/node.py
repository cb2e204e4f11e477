"""One Kafka node: its ports, its folder, its server properties, its process. Knows nothing of the other nodes' lives.

Every node is broker and KRaft controller at once and listens on the loopback address only, on three ports: CLIENT for
those who use it, INTERNAL between brokers and for the readiness check, CONTROLLER for the quorum. INTERNAL stays plain,
so that a test can put TLS or SASL on CLIENT with properties alone.
"""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from worker.errors import IntentError
from worker.kafka import properties
from worker.ports import HOST, free_port

HEAP_MB = 512
_LEASH = Path(__file__).with_name("leash.py")
_CLUSTER_ID = "aW50ZW50LXdvcmtlci0wMQ"  # 16 bytes in base64; clusters are told apart by their folders
_FORMAT_TIMEOUT_S = 180
_STARTS = "---- the node starts ----"

# The kernel ties a leash to the thread that forked, not to its process. This one thread lives as long as the process;
# a caller's thread may end at any time, and would take its brokers along.
_forker = ThreadPoolExecutor(1, thread_name_prefix="kafka-forker")


@dataclass(frozen=True, slots=True)
class Node:
    """Where node number `number` (from 1) listens and keeps its data."""

    number: int
    folder: Path
    client_port: int
    internal_port: int
    controller_port: int

    @property
    def log(self) -> Path:
        """What the node said, over all its starts."""
        return self.folder / f"broker-{self.number}.log"

    @property
    def data(self) -> Path:
        """Its Kafka log directory."""
        return self.folder / f"data-{self.number}"

    @property
    def properties(self) -> Path:
        """Its server properties."""
        return self.folder / f"server-{self.number}.properties"

    @property
    def log_settings(self) -> Path:
        """How it logs; one file for all nodes."""
        return self.folder / "log4j2.properties"


@dataclass(frozen=True, slots=True)
class Java:
    """The program, class path, heap and further options that run every node."""

    program: Path
    classpath: str
    heap_mb: int
    options: tuple[str, ...] = ()

    def command(self, node: Node, main: str, *arguments: str) -> list[str]:
        """The command line of one of Kafka's main classes."""
        return [
            str(self.program),
            "-Xms128m",
            f"-Xmx{self.heap_mb}m",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",
            "--enable-native-access=ALL-UNNAMED",  # the compression codecs; Java 24 and later warn without it
            "-Djava.awt.headless=true",
            f"-Djava.io.tmpdir={node.folder}",  # native codecs are unpacked there, and stay where the node is killed
            f"-Dlog4j2.configurationFile={node.log_settings}",
            *self.options,
            "-cp",
            self.classpath,
            main,
            *arguments,
        ]


def plan(folder: Path, *, nodes: int, port: int = 0) -> list[Node]:
    """Nodes 1 to `nodes` below `folder`. `port` is the first one's client port, the others follow; 0 chooses free ones.

    Raises `IntentError` when a named port is taken.
    """
    clients = [_named(port + index) if port else free_port() for index in range(nodes)]
    return [
        Node(number, folder.absolute(), client, internal_port=free_port(clients), controller_port=free_port(clients))
        for number, client in enumerate(clients, 1)
    ]


def prepare(node: Node, peers: Sequence[Node], java: Java, extra: Mapping[str, str]) -> None:
    """Writes the node's properties (`extra` over ours) and formats its data folder, once: that takes a second."""
    with written_to(node.folder):
        node.folder.mkdir(parents=True, exist_ok=True)
        node.log_settings.write_text(properties.LOG4J)
        node.properties.write_text(properties.render({**_server_properties(node, peers), **extra}))
    if (node.data / "meta.properties").exists():
        return
    command = java.command(node, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(node.properties))
    with _begun(node) as log:
        done = subprocess.run(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            timeout=_FORMAT_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        raise IntentError(why_it_ended(node))


def spawn(node: Node, java: Java, *, leashed: bool) -> psutil.Process:
    """Starts the node and returns at once. A leashed node dies with this process, any other outlives it.

    It has a session of its own: a Ctrl-C in the terminal reaches whoever started it, who then stops it in order.
    """
    command = java.command(node, "kafka.Kafka", str(node.properties))
    if leashed:
        command = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *command]
    with _begun(node) as log:
        streams = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        spawned = _forker.submit(os.posix_spawn, command[0], command, _environment(), file_actions=streams, setsid=True)
        return psutil.Process(spawned.result())


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Raises `IntentError` for a folder of a broker that cannot be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        raise IntentError(f"the broker's folder {folder} cannot be written: {error.strerror}; choose another") from None


@contextmanager
def _begun(node: Node) -> Iterator[int]:
    """Its log, open, behind the line that tells a start."""
    with written_to(node.folder):
        log = os.open(node.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        with written_to(node.folder):
            os.write(log, f"{_STARTS}\n".encode())
        yield log
    finally:
        os.close(log)


def alive(process: psutil.Process) -> bool:
    """Whether it runs or is paused. An ended child that nobody waited for does not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def why_it_ended(node: Node) -> str:
    """One sentence about a node that did not come up, from what it said since its last start."""
    said = node.log.read_text(errors="replace").rpartition(_STARTS)[2].splitlines() if node.log.exists() else []
    ports = f"{node.client_port}, {node.internal_port} or {node.controller_port}"
    for signs, sentence in (
        (("Address already in use",), f"port {ports} was taken in the meantime; try again"),
        (
            ("insufficient memory", "Could not reserve enough space", "OutOfMemoryError", "Cannot allocate memory"),
            "there was not enough memory for it; stop something else, or give the container more",
        ),
        (("Too many open files",), "it may not open enough files; raise the limit, e.g. by `ulimit -n 4096`"),
        (("No space left on device",), f"the disk that holds {node.folder} is full"),
        (("Failed to acquire lock",), f"another broker works on {node.data}; stop that one, or choose another folder"),
    ):
        if any(sign in line for line in said for sign in signs):
            return f"Kafka node {node.number} did not start: {sentence} (its log: {node.log})"
    errors = [line.strip() for line in said if "ERROR" in line or "Exception" in line or line.startswith("Error")]
    last = errors[-1] if errors else "it did not say why, and was perhaps killed for want of memory"
    return f"Kafka node {node.number} ended while it started: {last} (its log: {node.log})"


def _server_properties(node: Node, peers: Sequence[Node]) -> dict[str, str]:
    here = f"CLIENT://{HOST}:{node.client_port},INTERNAL://{HOST}:{node.internal_port}"
    return {
        **properties.cluster(len(peers)),
        "node.id": str(node.number),
        "controller.quorum.voters": ",".join(f"{peer.number}@{HOST}:{peer.controller_port}" for peer in peers),
        "listeners": f"{here},CONTROLLER://{HOST}:{node.controller_port}",
        "advertised.listeners": here,
        "log.dirs": str(node.data),
    }


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8"}  # in a plain C locale Java cannot open paths beyond ASCII


def _named(port: int) -> int:
    with socket.socket() as probe:
        # As Kafka does: connections closed a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            raise IntentError(
                f"port {port} on {HOST} {'is taken' if taken else f'cannot be used ({error})'}; "
                "choose another, or stop what listens there"
            ) from None
    return port
