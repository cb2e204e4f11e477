"""Changelog into RocksDB in bulk, for partitions that this worker owns and for those it stands by for.

Each fetch is written in a few batches, each with its offset, so a rebuild that is interrupted goes on where it stopped;
the end is told by position. Steps in for Faust's record-by-record loop (`Recovery._slurp_changelogs`), whose queue
stays empty; the order of a recovery (highwaters, offsets, seek, resume, then the standbys, then the sources) remains
Faust's. Knows neither what a window is nor how records are fetched.

Private parts of Faust's `Recovery` in use: `active_tps`, `active_offsets`, `active_highwaters`, `standby_tps`,
`standby_offsets`, `standby_highwaters`, `need_recovery`, `_set_recovery_ended`, `signal_recovery_end`, `in_recovery`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import structlog
from faust.types import TP

from worker.clock import now_ms
from worker.errors import Fatal
from worker.fold import Unread
from worker.stream import folder

if TYPE_CHECKING:
    from worker.stream.app import IntentApp

FILL_RECORDS: Final = 5_000
"""In one write batch, at most: windows that are alike compress so well that one fetch may hold a whole partition."""
_TELL_S: Final = 5.0
_STAMP_S: Final = 60.0

log = structlog.get_logger(__name__)


class Position(NamedTuple):
    """How far a partition's fetches are."""

    following: int
    """The next offset that they will bring."""
    stable_end: int | None
    """Behind the last offset that a reader of committed records gets, as of the last fetch."""


class CatchUp:
    """Brings the store up to the changelog, and keeps standbys there."""

    def __init__(
        self,
        app: "IntentApp",
        *,
        position: Callable[[TP], Position | None],
        fatal: Callable[[str], Any],
    ) -> None:
        """`position` is `None` while it is unknown. `fatal` ends the process with one sentence."""
        self._app = app
        self._position = position
        self._fatal = fatal
        self._resumed: set[TP] = set()
        """Changelog partitions that are read: only of these are the recovery's offsets those of this assignment."""
        self._standing_by: dict[TP, float] = {}
        """When each standby was last found complete, monotonic."""
        self._signal_end = False
        self._assigned_ms = 0
        self._progress = _Progress()

    # -- what Faust's recovery does ------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The assignment changes. Faust's end signal with it, which Faust itself clears up to 5 s late: a rebalance
        right after a recovery would otherwise end the next one at once, with old state.
        """
        self._resumed.clear()
        self._standing_by.clear()
        self._signal_end = False
        self._app.recovery.signal_recovery_end.clear()
        self._assigned_ms = now_ms()
        self._progress = _Progress()

    def resume(self, tps: Iterable[TP]) -> None:
        """These are sought to where the store ends, and fetching begins."""
        recovery = self._app.recovery
        for tp in tps:
            if tp in recovery.active_tps:
                self._refuse_ahead(tp, recovery.active_offsets[tp], recovery.active_highwaters.get(tp))
            else:
                self._refuse_ahead(tp, recovery.standby_offsets[tp], recovery.standby_highwaters.get(tp))
            self._resumed.add(tp)
        self._progress = _Progress()
        self._app.metrics.recovery_remaining_records.set(self._remaining())

    def recovered(self) -> None:
        """Nothing is left to read of the partitions owned here: their sources may start."""
        recovery = self._app.recovery
        self._signal_end = False
        for tp in recovery.active_tps:
            self._refuse_ahead(tp, recovery.active_offsets[tp], recovery.active_highwaters.get(tp))
            self._app.table.store.complete(tp.partition, self._assigned_ms)
        self._app.metrics.recovery_remaining_records.set(0)

    def _refuse_ahead(self, tp: TP, held: int, end: int | None) -> None:
        path = self._app.table.store.partition_path(tp.partition)
        stray = self._app.partitions.taken_back.pop(tp.partition, None)
        if stray is not None and held >= stray:
            why = f"it holds changelog offset {held}, and what stands there from {stray} on was never committed"
            folder.condemn(path, Fatal(why))
            self._fatal(f"the state folder {path} is ahead: {why}; the next start rebuilds it")
        if end is not None and held > end:
            self._fatal(
                f"the state folder {path} holds changelog offset {held}, but {tp.topic} ends at {end} in partition "
                f"{tp.partition}: the topic has lost records; restore it, or move the folder away to go on from what "
                "the topic holds (events since then are scored again)"
            )

    # -- what is fetched -----------------------------------------------------------------------------------------------

    def apply(self, tp: TP, records: Sequence[Any]) -> None:
        """One fetch of a changelog partition into RocksDB."""
        recovery = self._app.recovery
        if tp not in self._resumed:
            return  # recovery will seek before it reads
        active = tp in recovery.active_tps
        offsets = recovery.active_offsets if active else recovery.standby_offsets
        fresh = [record for record in records if record.offset > offsets[tp]]
        if not fresh:
            return
        for start in range(0, len(fresh), FILL_RECORDS):
            some = fresh[start : start + FILL_RECORDS]
            if Unread in set(map(type, some)):
                _refuse(tp, some)
            self._app.table.store.fill(tp.partition, [(record.key, record.value) for record in some], some[-1].offset)
            offsets[tp] = some[-1].offset
        self._app.metrics.recovered_records_total.inc(len(fresh))
        if active:
            self._app.recovery_progressed()
            self._app.metrics.recovery_remaining_records.set(self._remaining())
            self._progress.tell(len(fresh), self._remaining)

    def end_by_position(self) -> None:
        """Transaction markers and aborted records hold offsets but are never delivered: the position tells the end.

        To be called only when all fetched records are applied: the positions are already behind them.
        """
        recovery = self._app.recovery
        for tp in self._resumed:
            position = self._position(tp)
            if position is None:
                continue
            if tp in recovery.active_tps:
                end = recovery.active_highwaters.get(tp)
                if end is not None and position.following > end > recovery.active_offsets[tp]:
                    recovery.active_offsets[tp] = end
            else:
                self._stand_by(tp, position)
        if recovery.in_recovery and self._resumed & recovery.active_tps and not recovery.need_recovery():
            self._resumed -= recovery.active_tps
            recovery._set_recovery_ended()  # noqa: SLF001
            self._signal_end = True
            log.info("recovered", records=self._progress.records, seconds=round(self._progress.seconds, 2))
        if self._signal_end:  # again and again: Faust's own loop may clear it before it is heard
            recovery.signal_recovery_end.set()

    def _remaining(self) -> int:
        """Offsets, so at most so many records: markers and compacted records hold some too."""
        recovery = self._app.recovery
        return sum(
            max(0, end - recovery.active_offsets[tp])
            for tp, end in recovery.active_highwaters.items()
            if tp in recovery.active_tps
        )

    def _stand_by(self, tp: TP, position: Position) -> None:
        recovery = self._app.recovery
        if position.stable_end is None or position.following < position.stable_end:
            return
        now = time.monotonic()
        if tp not in self._standing_by:
            log.info("standing by", partition=tp.partition, changelog_offset=recovery.standby_offsets[tp])
        elif now - self._standing_by[tp] < _STAMP_S:
            return
        self._standing_by[tp] = now
        self._app.table.store.complete(tp.partition, now_ms())


def _refuse(tp: TP, records: Iterable[Any]) -> NoReturn:
    unread = next(record for record in records if isinstance(record, Unread))
    raise Fatal(
        f"offset {unread.offset} of {tp.topic} in partition {tp.partition} cannot be read back: {unread.why}; no "
        "worker has written it: see who may write to the topic, and restore it"
    )


class _Progress:
    """What the log says of a rebuild, every few seconds."""

    def __init__(self) -> None:
        self.records = 0
        self._began = self._told = time.monotonic()
        self._told_records = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def tell(self, count: int, remaining: Callable[[], int]) -> None:
        """So many records more are in the store."""
        self.records += count
        since_s = time.monotonic() - self._told
        if since_s >= _TELL_S:
            rate = (self.records - self._told_records) / since_s
            left = remaining()
            log.info(
                "recovering",
                records=self.records,
                remaining_at_most=left,
                records_per_second=round(rate),
                seconds_left_at_most=round(left / rate) if rate else None,
            )
            self._told, self._told_records = time.monotonic(), self.records
