"""Changelog into RocksDB in bulk: each fetch is one write batch, and the end is told by position.

Steps in for Faust's record-by-record loop (`Recovery._slurp_changelogs`), whose queue stays empty; the order of a
recovery (highwaters, offsets, seek, resume, seek the sources) remains Faust's. Knows neither what a window is nor how
records are fetched.

Private parts of Faust's `Recovery` in use: `active_tps`, `active_offsets`, `active_highwaters`, `need_recovery`,
`_set_recovery_ended`, `signal_recovery_end`, `in_recovery`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from faust.types import TP

if TYPE_CHECKING:
    from worker.stream.app import IntentApp

log = structlog.get_logger(__name__)


class CatchUp:
    """Brings the store up to the changelog, for the partitions that Faust's recovery has resumed."""

    def __init__(self, app: "IntentApp", *, position: Callable[[TP], int | None]) -> None:
        """`position` tells the next offset that a partition's fetches will bring, `None` while that is unknown."""
        self._app = app
        self._position = position
        self._resumed: set[TP] = set()
        """Only of these are the recovery's offsets those of this assignment."""
        self._count = 0
        self._began: float | None = None

    def reset(self) -> None:
        """The assignment changes. Faust's end signal with it, which Faust itself clears up to 5 s late: a rebalance
        right after a recovery would otherwise end the next one at once, with old state.
        """
        self._resumed.clear()
        self._app.recovery.signal_recovery_end.clear()

    def resume(self, tps: Iterable[TP]) -> None:
        """Recovery has sought these to where the store ends, and fetching begins."""
        self._resumed.update(tps)

    def apply(self, tp: TP, records: Sequence[Any]) -> None:
        """One fetch of a changelog partition into RocksDB, as one write batch."""
        recovery = self._app.recovery
        if tp not in self._resumed or tp not in recovery.active_tps:
            return  # recovery will seek before it reads
        done = recovery.active_offsets[tp]
        fresh = [record for record in records if record.offset > done]
        if not fresh:
            return
        if self._began is None:
            self._began = time.monotonic()
        self._app.table.store.write(tp.partition, ((record.key, record.value) for record in fresh), fresh[-1].offset)
        recovery.active_offsets[tp] = fresh[-1].offset
        self._count += len(fresh)
        self._app.on_recovered(len(fresh))
        self._maybe_end()

    def end_by_position(self) -> None:
        """Transaction markers and aborted records hold offsets but are never delivered: the position tells the end.

        To be called only when all fetched records are applied: the positions are already behind them.
        """
        if not self._resumed:
            return
        recovery = self._app.recovery
        for tp in self._resumed & recovery.active_tps:
            position, end = self._position(tp), recovery.active_highwaters.get(tp)
            if position is not None and end is not None and position > end > recovery.active_offsets[tp]:
                recovery.active_offsets[tp] = end
        self._maybe_end()

    def _maybe_end(self) -> None:
        recovery = self._app.recovery
        if self._resumed and recovery.in_recovery and not recovery.need_recovery():
            self._resumed.clear()
            recovery._set_recovery_ended()  # noqa: SLF001
            recovery.signal_recovery_end.set()
            seconds = time.monotonic() - (self._began or time.monotonic())
            log.info("recovered", records=self._count, seconds=round(seconds, 2))
            self._count, self._began = 0, None
