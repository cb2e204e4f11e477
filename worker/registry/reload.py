"""Follows the aliases of a store while the worker runs: a model that moves in is loaded beside the one that scores.

Owns one thread, which looks, loads, verifies and swaps; the event loop and the device go on meanwhile. A model that is
refused leaves the one before in place, is told in one line and a metric, and is tried again ever more rarely until the
alias moves. A store that hangs stops the looking without an error: when it last answered is a metric. Knows neither
Faust nor Kafka, and of the engine only `swap` and `set_challenger`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from worker.errors import IntentError, SettingError
from worker.ops.metrics import Metrics
from worker.registry.source import Source
from worker.scoring.bundle import Bundle

RETRY_AT_MOST_S: Final = 3600.0
"""A refused version is tried again after one interval, then two, four, and so on, up to this."""
_DOUBLED_AT_MOST: Final = 32
"""Far past the hour for any interval; the 1024th doubling is beyond a float."""

log = structlog.get_logger(__name__)


class Engine(Protocol):
    """What is told of new models; see `scoring.engine.Engine`."""

    def swap(self, bundle: Bundle) -> None:
        """Scores with the bundle from its next batch on. Blocks while it warms up; keeps the old one on error."""

    def set_challenger(self, bundle: Bundle | None) -> None:
        """Takes the bundle for offers; likewise."""


@dataclass(slots=True)
class _Followed:
    """One alias, and what became of it."""

    alias: str
    version: str | None
    """What the engine has."""
    refused: str | None = None
    tries: int = 0
    again_at: float = 0.0


class Reloader:
    """`champion` and, if shadowing is wanted, `challenger` are aliases of the source.

    `loaded` is the version that the engine was made with. `challenging` hears whether there is a challenger, when that
    changes.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        *,
        champion: str,
        loaded: str,
        challenger: str | None,
        challenging: Callable[[bool], None],
        interval_s: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._engine = engine
        self._champion = _Followed(champion, loaded)
        self._challenger = None if challenger is None else _Followed(challenger, None)
        self._challenging = challenging
        self._interval_s = interval_s
        self._metrics = metrics
        self._clock = clock
        self._reachable = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """From now on. The thread is a daemon: it holds nothing that a process must finish."""
        self._metrics.model_store_seen.set_to_current_time()  # the model that scores has come from there
        self._thread.start()

    def stop(self) -> None:
        """Looks no more; a load under way ends by itself, or with the process."""
        self._stop.set()

    def look(self) -> None:
        """Looks at each alias once, and brings the engine up to it. Blocks for as long as loading takes."""
        try:
            self._follow(self._champion, self._source.version(self._champion.alias), self._swap)
            if self._challenger is not None:
                wanted = self._source.version(self._challenger.alias)
                if wanted == self._champion.version:  # promoted: it has nobody to be compared with
                    wanted = None
                self._follow(self._challenger, wanted, self._challenge)
            self._reachable = True
            self._metrics.model_store_seen.set_to_current_time()
        except Exception as error:  # whatever a store's library raises: the worker goes on with what it has
            self._metrics.model_reloads_total.labels(result="unusable").inc()
            if self._reachable:
                log.warning("the model store is not usable; the models stay as they are", error=str(error))
            self._reachable = False

    def _run(self) -> None:
        """The thread."""
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._interval_s)

    def _follow(self, followed: _Followed, wanted: str | None, take: Callable[[Bundle | None], None]) -> None:
        if wanted != followed.refused:
            self._forget_refusals(followed)
        if wanted == followed.version or self._clock() < followed.again_at:
            return
        begin, loaded = self._clock(), False
        try:
            bundle = None if wanted is None else self._source.load(wanted)
            loaded = True
            take(bundle)
        except Exception as error:  # a bad bundle must not reach further than this, whatever is wrong with it
            if not loaded and isinstance(error, IntentError) and not isinstance(error, SettingError):
                raise  # the store's fault, not the bundle's
            self._refuse(followed, wanted, error)
            return
        followed.version = wanted
        self._forget_refusals(followed)  # what was refused before may be what moved in now
        self._metrics.model_reloads_total.labels(result="done").inc()
        log.info("model moved in", alias=followed.alias, version=wanted, seconds=round(self._clock() - begin, 3))

    def _forget_refusals(self, followed: _Followed) -> None:
        followed.refused, followed.tries, followed.again_at = None, 0, 0.0
        self._metrics.model_refused.labels(alias=followed.alias).set(0)

    def _refuse(self, followed: _Followed, wanted: str | None, error: Exception) -> None:
        followed.refused = wanted
        doubled = min(followed.tries, _DOUBLED_AT_MOST)
        followed.again_at = self._clock() + min(self._interval_s * 2**doubled, RETRY_AT_MOST_S)
        followed.tries += 1
        self._metrics.model_reloads_total.labels(result="refused").inc()
        self._metrics.model_refused.labels(alias=followed.alias).set(1)
        log.error(
            "model refused, the one before stays",
            alias=followed.alias,
            refused=wanted,
            stays=followed.version,
            error=str(error) or type(error).__name__,
        )

    def _swap(self, bundle: Bundle | None) -> None:
        if bundle is None:
            raise SettingError(f"the alias {self._champion.alias} of {self._source.name} is gone; promote a version")
        self._engine.swap(bundle)
        self._metrics.show_model(name=bundle.name, version=bundle.version)

    def _challenge(self, bundle: Bundle | None) -> None:
        self._engine.set_challenger(bundle)
        self._challenging(bundle is not None)
        self._metrics.show_challenger(name=self._source.name, version=None if bundle is None else bundle.version)
