"""Puts one worker together: settings, topics, model, metrics, stream. Knows all the parts, not how they work.

Whatever is wrong with a setting, a topic or the bundle is said here, in one sentence, before anything is started.
"""

import errno
import fcntl
import gc
import os
import socket
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
from prometheus_client import REGISTRY

from worker.clock import now_ms
from worker.errors import SettingError
from worker.ops import logs
from worker.ops.metrics import Metrics
from worker.scores import rfc3339
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.registry.source import Source
    from worker.scoring.engine import Engine
    from worker.stream.shadow import Shadow

_VITAL: Final = ("topic", "partitions", "cleanup.policy")
"""Differences under which windows would be lost or split; of the others the log warns."""

LOCK: Final = ".lock"
"""In the state folder. Two workers would share its partitions, until one is assigned what the other has open."""

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> NoReturn:
    """Run the stream worker until a signal. Exits the process: 0 after a clean stop, 1 when it stopped uncommitted.

    Raises `SettingError` or `IntentError`, one sentence, when something is wrong before the start.
    """
    logs.configure(level=settings.log.level, format=settings.log.format)
    _check_topics(settings)
    _take_folder(settings)
    check_port(settings)
    # Until the stream runs: nothing of what is imported and loaded is garbage, and looking takes a sixth of the start.
    gc.disable()

    from worker.drift.monitor import Monitor
    from worker.registry.source import configured
    from worker.scoring.engine import Engine

    source, load = configured(settings.model)
    engine = Engine.configured(load, settings.model)
    log.info("model", name=engine.model.name, version=engine.model.version, device=str(engine.device))

    from worker.stream.app import serve as stream

    metrics = Metrics(REGISTRY)
    if settings.model.drift_window_events:
        engine.observer = Monitor(metrics, window_events=settings.model.drift_window_events).see
    shadow = None if source is None else _follow(source, settings, engine=engine, metrics=metrics)
    stream(settings, engine=engine, metrics=metrics, shadow=shadow)


def _follow(source: "Source", settings: Settings, *, engine: "Engine", metrics: Metrics) -> "Shadow | None":
    """Starts what follows the aliases, and the shadow where one is wanted. Their threads end with the process."""
    from worker.registry.alias import CHALLENGER
    from worker.registry.reload import Reloader
    from worker.stream.shadow import Shadow

    model, shadow = settings.model, None
    if model.shadow_share:
        shadow = Shadow(settings, engine=engine, metrics=metrics, now=lambda: rfc3339(now_ms()))
        shadow.start()
    Reloader(
        source,
        engine,
        champion=model.alias,
        loaded=engine.model.version,
        challenger=None if shadow is None else CHALLENGER,
        challenging=(lambda _: None) if shadow is None else shadow.challenge,
        interval_s=model.reload_interval_s,
        metrics=metrics,
    ).start()
    return shadow


def _check_topics(settings: Settings) -> None:
    from worker.kafka import topics

    for difference in topics.check(settings):
        if difference.what in _VITAL:
            raise SettingError(f"{difference}; {difference.advice}; `intent topics check` lists all")
        log.warning(
            "topic differs",
            topic=difference.topic,
            what=difference.what,
            found=difference.found,
            wanted=difference.wanted,
        )


def _take_folder(settings: Settings) -> None:
    """Makes the folder this process's for life: what ends the process, however that is, gives it back."""
    folder = settings.worker.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)  # never closed
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingError(
            f"the setting `worker.data_dir` is {str(folder)!r}, which another worker has; give each a folder of its own"
        ) from None
    except OSError as error:
        raise SettingError(
            f"the setting `worker.data_dir` is {str(folder)!r}, which cannot be written ({error.strerror}); "
            "name a writable folder"
        ) from None


def folder_taken(settings: Settings) -> bool:
    """Whether a worker has the folder now."""
    try:
        with (settings.worker.data_dir / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # any other: nobody had it yet, or nobody could
        return isinstance(error, BlockingIOError)
    return False


def check_port(settings: Settings) -> None:
    """Opens the web port as the worker will, and closes it. Raises `SettingError` where that fails."""
    host, port = settings.worker.web_host, settings.worker.web_port
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(places):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a former life's connections do not count
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            wrong = f"`worker.web_port` is {port}, which is taken on {host!r}; end who listens there, or choose another"
        elif error.errno == errno.EACCES:
            wrong = f"`worker.web_port` is {port}, which this user may not open; choose one above 1023"
        else:
            wrong = (
                f"`worker.web_host` is {host!r}, which is no address of this machine ({error.strerror}); "
                "name one, or 0.0.0.0 for all"
            )
        raise SettingError(f"the setting {wrong}") from None
