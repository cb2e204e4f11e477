"""The worker under test, as a process: the real program, whose scorer obeys orders from the harness.

It is forked from a server that has imported everything already, so that a restart costs what a restart of the worker
costs, and not what importing torch does. When the harness ends, however it ends, so does the worker.
"""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Final, Literal, NoReturn

from prometheus_client import REGISTRY

from tests.chaos import scorers
from worker import run
from worker.ops import logs
from worker.ops.metrics import Metrics
from worker.settings import Settings
from worker.stream.app import serve
from worker.terminal import told

Scorer = Literal["digest", "bundle"]
SCORERS: Final[tuple[Scorer, ...]] = ("bundle", "digest")

_ORPHANED: Final = 9


def prepare(scorer: Scorer) -> None:
    """What later workers find imported. Only the first call of a harness counts."""
    torch = ["worker.scoring.engine", "worker.scoring.bundle"] if scorer == "bundle" else []
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *torch])


def spawn(settings: Settings, *, scorer: Scorer) -> tuple[ForkServerProcess, Connection, Connection]:
    """(the process, where it takes orders, what it says)."""
    context = multiprocessing.get_context("forkserver")
    orders, giver = context.Pipe()
    said, says = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(settings, scorer, orders, says), daemon=True)
    process.start()
    orders.close()
    says.close()
    return process, giver, said


def _main(settings: Settings, scorer: Scorer, orders: Connection, says: Connection) -> NoReturn:
    for stream in (1, 2):
        os.dup2(says.fileno(), stream)
    says.close()
    trouble = scorers.Trouble()
    threading.Thread(target=_obey, args=(orders, trouble), name="orders", daemon=True).start()
    with told("intent"):  # as the command line does
        if scorer == "bundle":
            scorers.trouble_the_model(trouble)
            run.serve(settings)
        logs.configure(level=settings.log.level, format=settings.log.format)
        run._check_topics(settings)
        settings.worker.data_dir.mkdir(parents=True, exist_ok=True)
        serve(settings, engine=scorers.DigestEngine(trouble), metrics=Metrics(REGISTRY))
    raise AssertionError("both serve until they exit")


def _obey(orders: Connection, trouble: scorers.Trouble) -> None:
    while True:
        try:
            order: Sequence[object] = orders.recv()
        except (EOFError, OSError):
            os._exit(_ORPHANED)
        name, times = order
        trouble.obey(name, times)  # type: ignore[arg-type]  # sent by `workers.Place.order` only
        with suppress(OSError):
            orders.send(True)
