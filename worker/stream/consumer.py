"""Whole fetches in, one watermark a partition out. All that knows the inside of Faust's consumer.

Extends faust-streaming 0.15.3, mode-streaming 0.7.1 and aiokafka 0.14.0, which are pinned for it. Private parts in use:

- faust `Consumer`: `_drain_messages`, `_filter_tps_with_pending_acks`, `_filter_committable_offsets`,
  `_wait_next_records`, `_getmany`, `_read_offset`, `_committed_offset`, `_is_changelog_tp`, `_new_consumer_thread`,
  `_thread`, `flow_active`
- faust `AIOKafkaConsumerThread._create_worker_consumer`, `_consumer`, `_commit`
- aiokafka: `AIOKafkaConsumer._isolation_level`, `_fetch_max_wait_ms`, `_subscription`, `_client._conns`,
  `_client.cluster`, `_coordinator.check_errors`, `_fetcher._prefetch_backoff`; `SubscriptionState._last_fetch_ended`;
  `sender.BACKOFF_OVERRIDE`; `AIOKafkaConnection._writer`, `_loop`; what `records` says
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import InvalidSessionTimeoutError, KafkaError
from aiokafka.producer import sender as aiokafka_sender
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from faust.transport.drivers.aiokafka import Transport as FaustTransport
from faust.types import TP

from worker.errors import Fatal
from worker.stream.records import Batches, Portions, Records
from worker.stream.recovery import CatchUp, Position
from worker.stream.watchdog import end_process

if TYPE_CHECKING:
    from worker.stream.app import IntentApp

_IDLE_S: Final = 1.0
_FULL_S: Final = 0.02
"""While a partition is full: fetches of it do not wake the loop when it has room again."""
_FETCH_WAIT_MS: Final = 20
"""Faust's are 1,500. A broker has one fetch at a time: while one partition's records are taken, the others are asked
for, and wait for news; the one, and each question of a rebalance, wait with them. With all events in one partition the
median latency was 830 ms.
"""

_TAKEN_S: Final = 0.005
"""aiokafka's is 0.1: so long a partition whose queue is full would hold up the others. With none, each fetch leaves out
those whose records were about to be taken, and they wait for it.
"""

_COMMIT_S: Final = 3.0
"""So long the group's offsets may take: milliseconds, or a coordinator's election."""

_FAREWELL_S: Final = 1.0
"""A broker does not read the end of a TLS connection while a request of it waits there; uvloop is patient for 30 s."""

log = structlog.get_logger(__name__)

aiokafka_fetcher.MemoryRecords, aiokafka_fetcher.PartitionRecords = Batches, Records
aiokafka_fetcher.FetchResult = Portions

# While the broker still writes the markers of the transaction before, aiokafka sleeps 20 ms; a commit takes 1.3 ms.
aiokafka_sender.BACKOFF_OVERRIDE = 0.002

_close_when_answered: Final = AIOKafkaConnection.close


def _close(connection: AIOKafkaConnection, reason: Any = None, exc: Any = None) -> Any:
    """Closes as ever, and what is not closed by then after `_FAREWELL_S`: all that mattered has been answered."""
    writer = connection._writer  # noqa: SLF001
    closed = _close_when_answered(connection, reason, exc)
    if writer is not None:
        connection._loop.call_later(_FAREWELL_S, writer.transport.abort)  # noqa: SLF001 - there may be none running
    return closed


AIOKafkaConnection.close = _close


class ReadCommittedThread(AIOKafkaConsumerThread):
    """Reads committed records only: recovery must not see what a crashed owner left. Faust has no setting for it."""

    logger = logging.getLogger("faust.consumer")

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    async def on_start(self) -> None:
        """Connected. The next fetch waits a moment until what has come is taken, so that it asks for all partitions."""
        await super().on_start()
        assert self._consumer is not None
        self._consumer._fetcher._prefetch_backoff = _TAKEN_S  # noqa: SLF001

    async def _commit(self, offsets: Any) -> bool:
        """Whether it was done. Those of a topic that is gone aiokafka would commit again and again, for ever: in the
        rebalance that tells of it the worker stood still, neither ready nor at its end. They only serve lag tools.
        """
        with suppress(TimeoutError):  # aiokafka has told what was refused
            async with asyncio.timeout(_COMMIT_S):
                done: bool = await super()._commit(offsets)
                return done
        return False


class Consumer(FaustConsumer):
    """Faust's consumer without a message, event and task per record."""

    logger = logging.getLogger("faust.consumer")

    app: "IntentApp"  # the only app it is made for

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.catch_up = CatchUp(self.app, position=self._position, fatal=end_process)
        self._looked_into: dict[TP, int] = {}
        """Below that offset it has been told what was deleted unread."""

    def _new_consumer_thread(self) -> ReadCommittedThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def connected(self) -> bool:
        """Whether a connection to any broker is open."""
        consumer = getattr(self._thread, "_consumer", None)
        # A list: the consumer's thread may add a connection or drop one meanwhile.
        return consumer is not None and any(conn.connected() for conn in list(consumer._client._conns.values()))  # noqa: SLF001

    @property
    def led(self) -> bool:
        """Whether each partition that runs has a leader, by what the brokers last said."""
        consumer = getattr(self._thread, "_consumer", None)
        due = self.app.partitions.due()
        return not due or (
            consumer is not None
            and all(consumer._client.cluster.leader_for_partition(tp) not in {None, -1} for tp in due)  # noqa: SLF001
        )

    def check_group(self) -> None:
        """Raises what has ended or holds up the routine that keeps this worker in its group, such as a refusal.

        aiokafka tells it to those who ask it for records; Faust asks its fetcher, and would never hear.
        """
        coordinator = getattr(getattr(self._thread, "_consumer", None), "_coordinator", None)
        try:
            if coordinator is not None:
                coordinator.check_errors()
        except InvalidSessionTimeoutError as error:
            raise Fatal(
                "the brokers allow no session of `worker.session_timeout_s`, which is "
                f"{self.app.settings.worker.session_timeout_s:g}; choose one between their "
                "`group.min.session.timeout.ms` and `group.max.session.timeout.ms`"
            ) from error

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Whether fetches are asked for. What else Faust looks at, such as the last commit, made errors of the first
        events after some quiet minutes; the app judges by what waits and is not done.
        """
        self.verify_recovery_event_path(now, tp)

    # -- in ------------------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """The fetcher's loop: whole fetches to partitions and to recovery."""
        partitions = self.app.partitions
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):  # noqa: SLF001
                if full := partitions.full:
                    await self.wait_first(partitions.room(_FULL_S), self.suspend_flow.wait())
                records, _ = await self._wait_next_records(_FULL_S if full else _IDLE_S)
                if not records or self.should_stop:
                    if not self.assignment():
                        self._show_activity()
                    self.catch_up.end_by_position()
                    await self._end_by_position()
                    await asyncio.sleep(0)
                    continue
                if not self.flow_active:  # a rebalance began while the fetch was under way
                    await self._seek_back()
                    continue
                for tp, fetched in records.items():
                    if fetched:
                        await self._hand_over(TP(*tp), fetched)
                # only now: the positions it judges by are already behind the records in hand
                self.catch_up.end_by_position()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        """Nothing from those that are full: aiokafka holds one fetch of each, and asks for no more.

        A set of its own for the consumer's thread: Faust's may be emptied while that waits, and aiokafka takes an empty
        one for all partitions.
        """
        wanted = set(active_partitions or ()) - self.app.partitions.full
        return await super()._getmany(wanted, timeout) if wanted else {}

    async def perform_seek(self) -> None:
        """Each source partition to its own next record.

        Faust's goes to the group's offsets, which only serve lag tools: where they are ahead of a watermark, the fetch
        from there would pass for the one that `Partition.feed` asked for.
        """
        await self.seek_wait(self.app.partitions.due())

    async def _seek_back(self) -> None:
        try:
            await self.perform_seek()
        except self.consumer_stopped_errors as error:
            log.warning("seek after a rebalance failed; contiguity is checked when records come", error=repr(error))

    async def _hand_over(self, tp: TP, records: Sequence[Any]) -> None:
        if self._is_changelog_tp(tp):
            self.catch_up.apply(tp, records)
            await asyncio.sleep(0)  # heartbeats and health between write batches
            return
        end_offset = self._end_offset(tp, records)
        due = self.app.partitions.due_of(tp)
        seek_to = self.app.partitions.feed(tp, records, end_offset)
        if seek_to is not None:
            await self.seek_wait({tp: seek_to})  # on the consumer's thread, unlike `seek`
            return
        if due is not None and records[0].offset > due:
            await self._tell_lost(tp, due, records[0].offset)
        self._read_offset[tp] = records[-1].offset
        self.app.monitor.track_tp_end_offset(tp, end_offset)

    async def _tell_lost(self, tp: TP, due: int, found: int) -> None:
        """A hole in the source is passed over: markers and compaction leave some, retention takes what nobody has read.

        Each is looked into once. Where nothing was read before, there is nothing to miss: a new application begins with
        what the topic holds.
        """
        since = max(due, self._looked_into.get(tp, 0))
        if due == 0 or since >= found:
            return
        self._looked_into[tp] = found
        try:
            beginning = (await self.earliest_offsets(tp))[tp]
        except (KafkaError, TimeoutError) as error:
            log.warning("the beginning of a topic is not known, some of it may have been deleted", error=repr(error))
            return
        lost = min(beginning, found) - since
        if lost > 0:
            self.app.metrics.lost_offsets_total.inc(lost)
            log.error(
                "events were deleted before they were read",
                topic=tp.topic,
                partition=tp.partition,
                offset=since,
                lost=lost,
            )

    def _end_offset(self, tp: TP, records: Sequence[Any]) -> int:
        """Behind the last record that may be read. The source's own markers and aborted records hold offsets behind it,
        which nobody will ever do: counted as lag, they would look like a worker that stands still.
        """
        position = self._position(tp)
        if position is None or position.stable_end is None:
            end: int = self.highwater(tp)
        elif position.following < position.stable_end:
            end = position.stable_end
        else:
            end = records[-1].offset + 1
        return end

    async def _end_by_position(self) -> None:
        """Behind the last record may lie markers and aborted records only, and of what was deleted perhaps nothing is
        left: a later fetch passes them without a word.
        """
        for tp, due in self.app.partitions.due().items():
            position = self._position(tp)
            if position is not None and position.stable_end is not None and position.following >= position.stable_end:
                self.app.partitions.read_to_the_end(tp)
                await self._tell_lost(tp, due, position.stable_end)

    # -- recovery ------------------------------------------------------------------------------------------------------

    def _position(self, tp: TP) -> Position | None:
        consumer = self._thread._consumer  # noqa: SLF001
        subscription = consumer._subscription.subscription if consumer else None  # noqa: SLF001
        if subscription is None or tp not in subscription.assignment.tps:
            return None
        state = subscription.assignment.state_value(tp)
        return Position(state.position, state.lso) if state.has_valid_position else None

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Faust resumes changelogs when recovery may read, sources when it is done: then the watermarks are known."""
        tps = set(tps)
        super().resume_partitions(tps)
        changelogs = {tp for tp in tps if self._is_changelog_tp(tp)}
        if changelogs:
            self.catch_up.resume(changelogs)
        else:  # also without a partition: a worker may own none
            self.catch_up.recovered()
            self.app.start_partitions(tps)

    # -- out -----------------------------------------------------------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:  # noqa: ARG002
        return list(self.app.partitions.committed)

    def _filter_committable_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The group's offsets, which only serve lag tools."""
        done = self.app.partitions.committed
        return {tp: done[tp] for tp in tps if tp in done and done[tp] > (self._committed_offset[tp] or 0)}

    # -- assignment ----------------------------------------------------------------------------------------------------

    async def wait_empty(self) -> None:
        """Finish the batches in hand, or give them up, then commit the group's offsets."""
        await self.app.close_partitions()
        if self.app.should_stop and not self.app.crashed:
            self.app.limit_farewell()
        await self.commit_and_end_transactions()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Fence the former owner of each partition, and only then let recovery look for the changelog's end."""
        self.catch_up.reset()
        await self.app.open_partitions(assigned, generation_id)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop everything of the partitions before their next owner starts."""
        self.catch_up.reset()
        await super().on_partitions_revoked(revoked)  # comes to `wait_empty`, with what is done still known
        await self.app.close_partitions()
        self.app.partitions.forget()
        self._show_activity()

    def _show_activity(self) -> None:
        """Without a fetch for `broker_max_poll_interval`, as while a slow model keeps all queues full, aiokafka leaves
        the group and joins again only once there was one: Faust fetches nothing until then. Nor does it without a
        partition, and each time that such a worker left and joined again, all partitions of the group paused.
        """
        consumer: Any = self._thread._consumer  # noqa: SLF001
        consumer._subscription._last_fetch_ended = time.monotonic()  # noqa: SLF001


class Transport(FaustTransport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = cast("Any", Consumer)
