"""The workers of an episode and the supervisor that keeps them up, as production would.

Owns their lives: who may be struck, who rests, what every exit was. Knows nothing of Kafka and of what is checked.
"""

import os
import random
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from tests.chaos import process
from tests.chaos.process import Scorer
from tests.chaos.scorers import Order
from worker.ops.page import body
from worker.ports import free_port
from worker.settings import Settings

_POLL_S: Final = 0.02
_GONE_S: Final = 60.0
"""A killed process is gone, and a running one hears, when a busy machine comes to it."""
_BACK_OFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
_ANSWER_S: Final = 10.0
_LAST_WORDS_S: Final = 5.0
_KEPT_LINES: Final = 400
_SHOWN_LINES: Final = 12
START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Exit:
    """One end of a worker. `due`: the harness had asked for it."""

    at_s: float
    worker: str
    code: int
    due: bool
    said: str


class Place:
    """Room for one worker: its identity, folder and port. It holds a process at a time."""

    def __init__(self, name: str, settings: Settings, *, scorer: Scorer, log: Path) -> None:
        self.name = name
        self.settings = settings
        self.wanted = False
        """Whether the supervisor starts it again when it ends."""
        self.exits: list[Exit] = []
        self._scorer = scorer
        self._log = log
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process: ForkServerProcess | None = None
        self._orders: Connection | None = None
        self._listener: threading.Thread | None = None
        self._due = False
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.is_alive() else None

    @property
    def gone(self) -> bool:
        """Nothing runs, and the end of what ran is noted: one that has ended since `reap` looked is not gone yet."""
        with self._lock:
            return self._process is None

    @property
    def ready(self) -> bool:
        """What its own health page says."""
        return self.pid is not None and self.get("readyz") is not None

    @property
    def folder(self) -> Path:
        """Where its state is."""
        return self.settings.worker.data_dir

    def get(self, page: str) -> bytes | None:
        """The body of a page; `None` while it is not answered with 200."""
        return body(page, host="127.0.0.1", port=self.settings.worker.web_port, timeout_s=_ANSWER_S)

    def start(self) -> None:
        """From now on the supervisor keeps it up."""
        with self._lock:
            self._due = False
            self._process, self._orders, said = process.spawn(self.settings, scorer=self._scorer)
            self._listener = threading.Thread(
                target=self._listen, args=(said,), name=f"log of {self.name}", daemon=True
            )
            self._listener.start()
            self.wanted = True

    def keep_up(self) -> None:
        """Start it again where it is wanted and nothing runs. In one step: others take it down to touch its folder."""
        with self._lock:
            if self.wanted and self.gone:
                self.start()

    def order(self, order: Order, times: int = 1) -> bool:
        """Tell the scorer; returns when it obeys, and whether it does: a worker that is ending may not hear."""
        if (orders := self._orders) is None:
            return False
        with suppress(OSError, EOFError):
            orders.send((order, times))
            if orders.poll(_GONE_S):
                return bool(orders.recv())
        return False

    def send(self, signal_: signal.Signals) -> None:
        """A signal to the process, when there is one."""
        with self._lock:
            if (pid := self.pid) is not None:
                os.kill(pid, signal_)

    def kill(self, *, rest: bool = False) -> None:
        """SIGKILL; returns when it is gone. `rest`: it stays down until `start`."""
        with self._lock:
            self.wanted = self.wanted and not rest
            self._due = True
            running = self._process
            self.send(signal.SIGKILL)
        self._await_end(running, _GONE_S)

    def stop(self, *, within_s: float) -> int | None:
        """SIGTERM; the exit code, `None` when it took longer or none ran. It stays down until `start`."""
        with self._lock:
            self.wanted = False
            self._due = True
            running = self._process
            self.send(signal.SIGTERM)
        return self._await_end(running, within_s)

    def _await_end(self, running: ForkServerProcess | None, within_s: float) -> int | None:
        """The exit code of this very process, `None` when it took longer: the supervisor may have begun another."""
        deadline = time.monotonic() + within_s
        while (code := self._code(running)) is None and running is not None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self.reap()
        return code

    def _code(self, process_: ForkServerProcess | None) -> int | None:
        """Under the lock: of two threads that ask at once, one would find the code taken and be told 255."""
        with self._lock:
            return None if process_ is None else process_.exitcode

    def reap(self) -> Exit | None:
        """Note the end of a process that has ended."""
        with self._lock:
            ended = self._process
            if ended is None or ended.is_alive():
                return None
            self._process = None
            if self._orders is not None:
                self._orders.close()
            if self._listener is not None:
                self._listener.join(_LAST_WORDS_S)  # its last words say why it ended
            noted = Exit(time.monotonic(), self.name, ended.exitcode or 0, self._due, self.said())
            self.exits.append(noted)
            return noted

    def said(self) -> str:
        """Its last lines."""
        return "\n".join(list(self._lines)[-_SHOWN_LINES:])

    def _listen(self, said: Connection) -> None:
        """Through a pipe: a limit on the size of files must not reach the log."""
        with open(said.fileno(), "rb", closefd=False) as lines, self._log.open("ab") as log:
            for line in lines:
                log.write(line)
                log.flush()
                self._lines.append(line.decode(errors="replace").rstrip())
        said.close()


class Workers:
    """All places of an episode: the residents, which run throughout, and guests, which come and go."""

    def __init__(self, settings: Sequence[Settings], *, residents: int, scorer: Scorer, folder: Path) -> None:
        self.places = [
            Place(f"worker-{number}", one, scorer=scorer, log=folder / f"worker-{number}.log")
            for number, one in enumerate(settings)
        ]
        self.residents = self.places[:residents]
        self.guests = self.places[residents:]
        self._taken: set[str] = set()
        self._taking = threading.Condition()
        self._ended = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self) -> None:
        for place in self.residents:
            place.start()
        self._supervisor.start()

    @property
    def exits(self) -> list[Exit]:
        """So far, in the order of time."""
        return sorted((exit_ for place in self.places for exit_ in place.exits), key=lambda exit_: exit_.at_s)

    @property
    def all_ready(self) -> bool:
        return all(place.ready for place in self.places if place.wanted)

    @contextmanager
    def one(self, rng: random.Random, *, guest: bool = False) -> Iterator[Place]:
        """Any resident (or guest) for one fault alone; waits for one that no other fault has."""
        choice = list(self.guests if guest else self.residents)
        rng.shuffle(choice)
        with self._taking:
            while (place := next((place for place in choice if place.name not in self._taken), None)) is None:
                self._taking.wait()
            self._taken.add(place.name)
        try:
            yield place
        finally:
            with self._taking:
                self._taken.discard(place.name)
                self._taking.notify_all()

    def close(self) -> None:
        """Nothing runs afterwards. Idempotent."""
        self._ended.set()
        if self._supervisor.ident is not None:
            self._supervisor.join()
        for place in self.places:
            place.kill(rest=True)

    def _supervise(self) -> None:
        """Start again what ended, with a growing pause after each failure in a row."""
        due: dict[str, float] = {}
        failures: dict[str, int] = {}
        while not self._ended.wait(_POLL_S):
            now = time.monotonic()
            for place in self.places:
                if (noted := place.reap()) is not None:
                    healthy = now - due.get(place.name, 0) > 10
                    failures[place.name] = 0 if noted.due or healthy else failures.get(place.name, 0) + 1
                    due[place.name] = now + _BACK_OFF_S[min(failures[place.name], len(_BACK_OFF_S) - 1)]
                if now >= due.get(place.name, 0):
                    place.keep_up()


def identities(settings: Settings, *, count: int, static: bool, folder: Path) -> list[Settings]:
    """The settings of so many workers of one application."""
    return [
        settings.model_copy(
            update={
                "worker": settings.worker.model_copy(
                    update={
                        "instance_id": f"{settings.worker.application_id}-{number}" if static else None,
                        "data_dir": folder / f"state-{number}",
                        "web_port": free_port(),
                    }
                )
            }
        )
        for number in range(count)
    ]


def forget(folder: Path) -> None:
    """Remove a state folder."""
    shutil.rmtree(folder, ignore_errors=True)
