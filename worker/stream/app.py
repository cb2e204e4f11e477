"""The Faust app: topic, table, agent, web pages and lifecycle, put together from the settings.

An engineer who knows Faust finds the usual parts here; how records move is in `consumer` and `partition`.
Private parts of Faust in use: `App._new_transport`, `App._new_web`, `Worker._schedule_shutdown`,
`Worker._shutdown_loop`, `Worker._cry`, `Worker._enter_debugger`, `Recovery._wait`, and of its web server `_runner`; of
aiohttp's runner `_shutdown_timeout`.
"""

import asyncio
import faulthandler
import gc
import logging
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NoReturn, cast

import faust
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from faust.auth import SASLCredentials, SSLCredentials
from faust.tables.recovery import Recovery, ServiceStopped
from faust.types import TP
from mode import Service
from mode import loop as event_loop
from prometheus_client import CONTENT_TYPE_LATEST

from worker.errors import Fatal
from worker.kafka import clients, topics
from worker.kafka.topics import Changelog
from worker.ops import health
from worker.ops.metrics import Metrics
from worker.ports import free_port
from worker.settings import Settings
from worker.stream import unpack
from worker.stream.assignment import Partitions
from worker.stream.assignor import Assignor
from worker.stream.consumer import Transport
from worker.stream.partition import Shared
from worker.stream.quota import quota
from worker.stream.shadow import Shadow
from worker.stream.table import Table, Tables
from worker.stream.transaction import producer
from worker.stream.watchdog import EXIT_FATAL, Watchdog, end_process, exit_now

_FETCH_BYTES: Final = 4 << 20
_FETCH_RECORDS: Final = 20_000
"""Taken at once, of what has been fetched. A batch may hold millions of seven bytes, or tell of as many unread ones."""
_RECOVERY: Final = "progress in recovery (`worker.recovery_timeout_s`)"
_LOOP_STALL_S: Final = 60.0
_BEAT_S: Final = 1.0
_CONNECTIONS: Final = 100
"""Of probes, scrapers and people to the pages. Their server knows no limit and keeps one that asks nothing for an hour:
all files that the process may open could go there, and RocksDB and the brokers' clients need some.
"""
_LAST_ANSWER_S: Final = 0.2
"""So long a stop waits, twice, for who asks the pages. With aiohttp's 60 one who asked and did not read, or did not end
what he sent, held it up until the farewell was over; and the log said that the brokers do not answer.
"""
_FAREWELL_S: Final = 3.0
"""So long the group may take to hear of a stop: milliseconds, or a coordinator's election; for ever without brokers."""
_HEARTBEAT_S: Final = 3.0
"""A member hears of a rebalance by its heartbeat, and the others stand still until the last one has."""
_GC_THRESHOLDS: Final = (100_000, 50, 100)
"""A batch's objects outlive the usual 700: the collector walked them, and all that is loaded, again and again. Half of
the CPU time of a full stream went there; of the rest, 10,000 still took a twentieth.
"""

log = structlog.get_logger(__name__)


class IntentApp(faust.App):
    """One worker's app. `engine` is a `scoring.engine.Engine`."""

    logger = logging.getLogger("faust.app")  # Faust's own lines are not ours

    partitions: Partitions
    watchdog: Watchdog

    def __init__(
        self, settings: Settings, *, engine: Any, metrics: Metrics, changelog: Changelog, shadow: Shadow | None
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.watchdog = Watchdog()
        self.drained = True
        """Whether a stop, if there was one, left nothing uncommitted that had been taken."""
        self._stalled = False
        worker, kafka = settings.worker, settings.kafka
        web_port = worker.web_port or free_port()
        unpack.at_most(worker.max_unpacked_batch_bytes)
        super().__init__(
            worker.application_id,
            broker=[f"kafka://{server}" for server in kafka.bootstrap_servers.split(",")],
            broker_credentials=_credentials(settings),
            broker_session_timeout=worker.session_timeout_s,
            broker_heartbeat_interval=min(worker.session_timeout_s / 4, _HEARTBEAT_S),
            broker_request_timeout=worker.request_timeout_s,
            broker_max_poll_interval=worker.recovery_timeout_s,
            broker_commit_interval=1.0,
            broker_max_poll_records=_FETCH_RECORDS,
            # A static member gets the assignment of its former life, in which Faust looks for its own address.
            canonical_url=f"http://{worker.instance_id or _authority(worker.web_host, web_port)}",
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=worker.instance_id,
            consumer_max_fetch_size=_FETCH_BYTES,
            store="rocksdb://",
            datadir=worker.data_dir.resolve(),
            stream_wait_empty=True,
            table_standby_replicas=worker.standby_replicas,
            recovery_consistency_check=False,  # `recovery` has one that says what to do
            topic_allow_declare=False,
            topic_disable_leader=True,
            topic_partitions=settings.topics.partitions,
            topic_replication_factor=settings.topics.replication_factor,
            web_host=worker.web_host,
            web_bind=worker.web_host,
            web_port=web_port,
            web_router_enabled=False,  # the port has no login: it tells nothing of keys and tables
            web_tables_enabled=False,
            worker_redirect_stdouts=False,
            autodiscover=False,
        )
        self.conf.Table = Table  # type: ignore[assignment]  # a setting that takes a class or its name
        self.conf.TableManager = Tables  # type: ignore[assignment]  # likewise
        self.conf.PartitionAssignor = Assignor  # type: ignore[assignment]  # likewise
        self.partitions = Partitions(
            Shared(
                settings=settings,
                engine=engine,
                metrics=metrics,
                new_producer=partial(producer, settings),
                events_id=partial(topics.events_id, settings),
                fatal=end_process,
                shadow=shadow,
            )
        )
        metrics.show_model(name=engine.model.name, version=engine.model.version)
        metrics.engine_queue_windows.set_function(lambda: engine.queued)
        metrics.ready.set_function(lambda: self._readiness().status == HTTPStatus.OK)
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
        events = self.topic(
            settings.topics.events, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        table: Any = self.Table(
            "windows",
            partitions=settings.topics.partitions,
            key_type=bytes,
            value_type=bytes,
            options={"driver": "rocksdict", "changelog": changelog},
        )
        self.table: Table = table
        recovery: Any = self.recovery
        recovery._wait = partial(self._wait_in_recovery, recovery._wait)  # noqa: SLF001
        self.agent(events, name="windows")(_subscribe)
        pages: dict[str, Any] = {"livez": self._livez, "readyz": self._readyz, "metrics": self._metrics_page}
        for name, page in pages.items():
            self.page(f"/{name}", name=name)(page)

    @property
    def recovery(self) -> Recovery:
        """Faust's recovery service."""
        recovery: Recovery = self.tables.recovery  # type: ignore[attr-defined]  # in the class, not in its interface
        return recovery

    # -- what the consumer calls ---------------------------------------------------------------------------------------

    async def open_partitions(self, assigned: Iterable[TP], generation: int) -> None:
        """New assignment: fence the former owners. A failure is fatal: the group would wait for a worker that hangs."""
        self.metrics.rebalances_total.inc()
        self.watchdog.arm(_RECOVERY, self.settings.worker.recovery_timeout_s)
        sources = [tp for tp in assigned if tp.topic == self.settings.topics.events]
        log.info("assigned", partitions=sorted(tp.partition for tp in sources), generation=generation)
        try:
            await self.partitions.open(sources, generation)
        except Exception as error:  # Faust would log it and leave a worker that does nothing
            end_process("the assigned partitions could not be opened", error)

    def start_partitions(self, sources: Iterable[TP]) -> None:
        """Recovered: begin after each watermark. One that is refused ends the process before any other has begun."""
        try:
            self.partitions.start(sources, self.table.store, self.consumer_generation_id)
        except Fatal as error:
            end_process(str(error))
        if self.partitions.recovered:
            self.watchdog.disarm(_RECOVERY)

    async def close_partitions(self) -> None:
        """Revoked or stopping: finish the batches in hand, or give them up. Fatal when a commit does not end."""
        try:
            given_up = await self.partitions.close()
        except Exception as error:  # as above
            end_process("a partition could not be closed", error)
        if given_up:
            log.warning("batches given up", why="not scored in time; nothing of them is committed", partitions=given_up)
            self.drained = self.drained and not self.should_stop

    def limit_farewell(self) -> None:
        """Stopping, and all is committed. What is left is the group's to hear, and no broker may ever answer."""
        self.loop.call_later(_FAREWELL_S, _leave_in_silence)

    def recovery_progressed(self) -> None:
        """Changelog records of own partitions were read back."""
        self.partitions.progressed()
        self.watchdog.arm(_RECOVERY, self.settings.worker.recovery_timeout_s)

    # -- Faust's hooks -------------------------------------------------------------------------------------------------

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self, loop=self.loop)

    def _new_web(self) -> Any:
        web: Any = super()._new_web()
        web._runner._shutdown_timeout = _LAST_ANSWER_S  # noqa: SLF001 - Faust passes nothing on to it
        logging.getLogger("aiohttp.server").addFilter(_is_no_strangers)
        return web

    async def crash(self, reason: BaseException) -> NoReturn:
        """Faust may go on after a crash during a rebalance; this process does not."""
        if isinstance(reason, Fatal):  # it says all there is to say
            end_process(str(reason))
        end_process("faust crashed", reason)

    @Service.task
    async def _beat(self) -> None:
        """From the start on: a worker that is refused never gets as far as Faust's timers."""
        while not self.should_stop:
            self.watchdog.arm("the event loop", _LOOP_STALL_S)
            try:
                cast("Any", self.consumer).check_group()
            except Fatal as error:
                end_process(str(error))
            except Exception as error:
                end_process("this worker cannot be in its group", error)
            self._tell_stalled()
            self._close_connections()
            await self.sleep(_BEAT_S)

    def _tell_stalled(self) -> None:
        """Once each time: where nobody asks the pages, as under systemd, a device that hangs leaves no other trace."""
        state, before = self.condition(), self._stalled
        self._stalled = health.stalled(state, self._stalled_after_s)
        if self._stalled and not before:
            log.error(
                "stalled: events wait and none is done",
                lag_events=state.lag_events,
                since_progress_s=round(state.since_progress_s),
                engine_alive=state.engine_alive,
                broker_reachable=state.broker_reachable,
                led=state.led,
            )

    async def _wait_in_recovery(self, wait: Callable[..., Any], waited: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 - its
        """Faust's recovery takes a broker call that exceeds its time for its own end, and leaves without a word."""
        begin = time.monotonic()
        try:
            await wait(waited, timeout)
        except ServiceStopped as error:
            if not (self.should_stop or self.recovery.should_stop):
                cause = quota.blamed(begin) or "the brokers did not answer in time"
                end_process(f"recovery gave up: {cause}", error)
            raise

    def _close_connections(self) -> None:
        """The oldest, of too many to the pages."""
        server = cast("Any", self.web)._runner.server  # noqa: SLF001 - nothing public has it
        for connection in server.connections[:-_CONNECTIONS] if server is not None else ():
            connection.force_close()

    # -- web -----------------------------------------------------------------------------------------------------------

    def condition(self) -> health.State:
        """What health is judged by."""
        consumer: Any = self.consumer
        return health.State(
            recovered=self.partitions.live and not self.rebalancing and self.recovery.completed.is_set(),
            engine_alive=self.engine.alive,
            broker_reachable=consumer.connected,
            led=consumer.led,
            lag_events=self.partitions.lag,
            since_progress_s=time.monotonic() - self.partitions.progressed_at,
        )

    @property
    def _stalled_after_s(self) -> float:
        return health.stalled_after_s(self.settings.worker.transaction_timeout_s)

    def _readiness(self) -> health.Answer:
        return health.readiness(self.condition(), stalled_after_s=self._stalled_after_s)

    async def _livez(self, request: Any) -> Any:  # noqa: ARG002
        return self._answer(health.liveness(self.condition(), stalled_after_s=self._stalled_after_s))

    async def _readyz(self, request: Any) -> Any:  # noqa: ARG002
        return self._answer(self._readiness())

    async def _metrics_page(self, request: Any) -> Any:  # noqa: ARG002
        return self.web.bytes(self.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _answer(self, answer: health.Answer) -> Any:
        return self.web.bytes(answer.body, content_type=health.CONTENT_TYPE, status=answer.status)


def _leave_in_silence() -> NoReturn:
    """The group finds out by the session's end. Nothing else is missing: RocksDB is read back as after a kill."""
    log.warning("stopped, and the group does not know: the brokers do not answer", waited_s=_FAREWELL_S)
    exit_now(0)


def _is_no_strangers(record: logging.LogRecord) -> bool:
    """What is no HTTP is answered with 400: a scan of the port, or a scraper that wants TLS, is no error here. What a
    page of ours raises is told.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _subscribe(stream: Any) -> None:
    """Makes Faust subscribe to the topic and assign the table's partitions with it; the partitions do the work."""
    async for _ in stream:
        raise AssertionError("the consumer never feeds streams")


def _authority(host: str, port: int) -> str:
    """Of a URL; Faust's own has no brackets around an address with colons."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _credentials(settings: Settings) -> SASLCredentials | SSLCredentials | None:
    """Faust's credentials for the settings' security protocol."""
    kafka = settings.kafka
    context = clients.ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return SASLCredentials(
            username=kafka.sasl_username, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context
        )
    return SSLCredentials(context) if context else None


class Runner(faust.Worker):
    """Faust's process, with bounded stopping: a second signal, or no end in time, exits non-zero and uncommitted."""

    logger = logging.getLogger("faust.worker")

    app: IntentApp

    def _install_signal_handlers_unix(self) -> None:
        super()._install_signal_handlers_unix()
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under `nohup`
            self.loop.add_signal_handler(signal.SIGHUP, self._on_sighup)

    async def _cry(self) -> None:
        """SIGUSR1: where each thread and task is. Mode shows their variables with it, and so users and events."""
        faulthandler.dump_traceback()
        for task in asyncio.all_tasks():
            task.print_stack()

    def _enter_debugger(self) -> None:
        """SIGUSR2: nothing. Mode asks a debugger's questions of standard input, and the partitions would wait."""

    def _on_sighup(self) -> None:
        """A closed terminal: partitions need not wait for the session's end. Shell and kernel may both tell it."""
        if not self._signal_stop_time:
            self._schedule_shutdown(signal.SIGHUP)

    def _schedule_shutdown(self, signal: signal.Signals) -> None:
        if self._signal_stop_time:
            end_process(f"a second signal ({signal.name}) while stopping")
        self.app.watchdog.disarm("the event loop")  # its beat is among the first to end
        self.app.watchdog.arm("a clean stop", self.app.settings.worker.shutdown_timeout_s)
        super()._schedule_shutdown(signal)

    def _shutdown_loop(self) -> None:
        """All services have ended. Mode would wait up to two seconds here for tasks that nobody waits for."""
        if self.crash_reason:
            end_process("faust crashed", self.crash_reason)


def serve(settings: Settings, *, engine: Any, metrics: Metrics, shadow: Shadow | None = None) -> NoReturn:
    """Run one worker until a signal. Blocks; exits the process."""
    event_loop.use("uvloop")
    app = IntentApp(settings, engine=engine, metrics=metrics, changelog=topics.changelog(settings), shadow=shadow)
    log.info("pages", host=settings.worker.web_host, port=app.conf.web_port)
    app.watchdog.start()
    app.finalize()
    runner = Runner(
        app,
        quiet=True,
        override_logging=False,  # `ops.logs` has set it up
        redirect_stdouts=False,
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()
    runner.spinner = None  # it writes to stdout, terminal or not
    try:
        runner.execute_from_commandline()
    except SystemExit as ended:
        if shadow is not None:
            shadow.close()
        exit_now(EXIT_FATAL if ended.code or not app.drained else 0)
