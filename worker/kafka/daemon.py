"""A broker that outlives the command that started it: its state file, and finding, judging and ending it later.

A node is taken for ours only if the process of its pid runs this folder's properties file, so that neither a pid given
to another program nor a clock that was set can mislead `stop`.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
import psutil

from worker.alone import alone
from worker.errors import IntentError
from worker.kafka import broker
from worker.kafka.broker import EmbeddedBroker
from worker.kafka.node import alive, written_to
from worker.whole import written


class NodeState(msgspec.Struct, frozen=True):
    """One node as it was started. `started` is seconds since 1970."""

    number: int
    pid: int
    started: float
    properties: str
    log: str


class State(msgspec.Struct, frozen=True):
    """The state file."""

    bootstrap_servers: str
    nodes: tuple[NodeState, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What runs below a folder. The mappings have an entry for each node of the last start, if there was one."""

    bootstrap_servers: str
    running: dict[int, bool]
    pids: dict[int, int]
    logs: dict[int, str]

    @property
    def complete(self) -> bool:
        """Whether every node runs."""
        return bool(self.running) and all(self.running.values())


def start(folder: Path, *, nodes: int, port: int) -> bool:
    """Starts a broker that stays, and waits until it answers. False when it runs already. Blocks for seconds.

    Raises `IntentError` when another number of nodes runs, or as `EmbeddedBroker.start` does.
    """
    broker.make_folder(folder)
    with _terminable(), alone(folder / ".lock"):  # until another start is over, it cannot be told from none
        standing = status(folder)
        if standing.complete and len(standing.running) == nodes:
            return False
        if any(standing.running.values()):
            raise IntentError(
                f"{sum(standing.running.values())} of {len(standing.running)} Kafka nodes run below {folder}, and "
                f"{nodes} were asked for; `intent broker stop` first"
            )
        started = EmbeddedBroker(folder, nodes=nodes, port=port, leashed=False)
        started.launch()
        try:
            # Before it answers: should this process be killed now, `stop` finds the broker.
            _write(folder, _state(started))
            started.wait_ready()
        except BaseException:
            started.stop(timeout_s=0)
            _state_file(folder).unlink(missing_ok=True)
            raise
    return True


def status(folder: Path) -> Status:
    """What runs there now. Blocks for milliseconds: it looks at processes and asks no broker."""
    state = _read(folder)
    return Status(
        bootstrap_servers=state.bootstrap_servers,
        running={node.number: _process(node) is not None for node in state.nodes},
        pids={node.number: node.pid for node in state.nodes},
        logs={node.number: node.log for node in state.nodes},
    )


def stop(folder: Path) -> int:
    """Ends the nodes that run there, by SIGKILL after ten seconds: how many there were. The data stays. Idempotent."""
    processes = [process for node in _read(folder).nodes if (process := _process(node)) is not None]
    broker.stop(processes)
    _state_file(folder).unlink(missing_ok=True)
    return len(processes)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, through its `except` and `finally`."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _state(started: EmbeddedBroker) -> State:
    nodes = tuple(
        NodeState(
            number=node.number,
            pid=started.processes[node.number].pid,
            started=started.processes[node.number].create_time(),
            properties=str(node.properties),
            log=str(node.log),
        )
        for node in started.nodes
    )
    return State(started.bootstrap_servers, nodes)


def _write(folder: Path, state: State) -> None:
    with written_to(folder), written(_state_file(folder)) as beside:
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(state)))


def _read(folder: Path) -> State:
    path = _state_file(folder)
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return State("", ())
    except OSError as error:
        raise IntentError(
            f"the state of a broker, {path}, cannot be read ({error.strerror}); name its folder by --folder"
        ) from None
    except msgspec.MsgspecError as error:
        raise IntentError(f"{path} is no state of a broker ({error}); remove it, and end the broker by hand") from None


def _process(node: NodeState) -> psutil.Process | None:
    try:
        process = psutil.Process(node.pid)
        return process if alive(process) and process.cmdline()[-1:] == [node.properties] else None
    except psutil.Error:
        return None


def _state_file(folder: Path) -> Path:
    return folder / "state.json"
