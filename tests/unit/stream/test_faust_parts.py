"""The private parts of Faust, mode and aiokafka that `worker/stream` is built on: one test each, which fails when a new
version changes the part or what is relied on. What runs in a moment is run; of the rest the source is read.
"""

import asyncio
import dataclasses
import inspect
import re
import signal
import time
import tomllib
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import aiokafka
import faust
import pytest
from aiohttp.web_runner import BaseRunner
from aiokafka.codec import lz4_encode
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState, TopicPartitionState
from aiokafka.errors import ConcurrentTransactions
from aiokafka.producer import sender as aiokafka_sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record import default_records as record_batches
from aiokafka.record._crecords import (
    DefaultRecordBatch,
    DefaultRecordBatchBuilder,
    LegacyRecordBatch,
    LegacyRecordBatchBuilder,
    default_records,
    legacy_records,
)
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.structs import TopicPartition
from faust.sensors import Monitor
from faust.stores.rocksdb import Store as RocksDBStore
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery, ServiceStopped
from faust.transport.conductor import Conductor
from faust.transport.consumer import Consumer as PlainConsumer
from faust.transport.consumer import Fetcher, ThreadDelegateConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from faust.transport.drivers.aiokafka import Transport as FaustTransport
from faust.types import TP
from mode import Service
from mode.worker import Worker as ModeWorker
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.unit.stream.fetched import builder
from worker import config
from worker.errors import Invalid
from worker.kafka.topics import Changelog
from worker.ops.health import State
from worker.ops.metrics import Metrics
from worker.stream import app as stream
from worker.stream import consumer, records, unpack
from worker.stream.app import IntentApp, Runner
from worker.stream.quota import Quota
from worker.stream.records import Portions, Records
from worker.stream.table import Store, Table, Tables

CHANGELOG = TP("log", 0)
PINNED = ("faust-streaming", "mode-streaming", "aiokafka")


@pytest.fixture
def app() -> faust.App:
    return faust.App("unit", autodiscover=False, store="memory://")


@pytest.fixture
def recovery(app: faust.App) -> Recovery:
    return Recovery(app, app.tables)


def source(part: Any) -> str:
    """Without comments and layout."""
    part = getattr(part, "fun", part)  # a service's task
    return " ".join(re.sub(r"#.*", "", inspect.getsource(part)).split())


def parameters(part: Any) -> list[str]:
    return list(inspect.signature(part).parameters)


@pytest.mark.parametrize("package", PINNED)
def test_the_version_is_pinned_exactly_and_is_the_one_installed(package: str) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert f"{package}=={version(package)}" in project["dependencies"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (consumer.Consumer, FaustConsumer),
        (consumer.ReadCommittedThread, AIOKafkaConsumerThread),
        (consumer.Transport, FaustTransport),
        (Store, RocksDBStore),
        (Table, faust.Table),
        (Tables, TableManager),
        (IntentApp, faust.App),
        (Runner, faust.Worker),
    ],
    ids=lambda part: f"{part.__module__}.{part.__name__}",
)
def test_what_is_overridden_is_called_as_before(ours: type, theirs: type) -> None:
    shared = [name for name, part in vars(ours).items() if inspect.isfunction(part) and hasattr(theirs, name)]
    assert shared or ours is consumer.Transport
    for name in shared:
        if name != "__init__":
            assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name)), name
            asynchronous = inspect.iscoroutinefunction(getattr(theirs, name))
            assert inspect.iscoroutinefunction(getattr(ours, name)) == asynchronous, name


@pytest.mark.parametrize(
    "part", [consumer.Consumer, consumer.ReadCommittedThread, Store, Table, Tables, IntentApp, Runner]
)
def test_what_faust_tells_of_its_own_steps_is_not_told_as_ours(part: type[Service]) -> None:
    """A part gets another logger from mode where the name of the chosen one is that of a module of Faust."""
    assert part.logger.name.startswith("faust.")


@pytest.mark.parametrize(
    ("caller", "call"),
    [
        (Fetcher._fetcher, "await consumer._drain_messages(self)"),
        (PlainConsumer.force_commit, "commit_tps = list(self._filter_tps_with_pending_acks(topics))"),
        (PlainConsumer._commit_tps, "commit_offsets = self._filter_committable_offsets(tps)"),
        (ThreadDelegateConsumer.__init__, "self._thread = self._new_consumer_thread()"),
        (AIOKafkaConsumerThread._create_consumer, "return self._create_worker_consumer(transport)"),
        (AIOKafkaConsumerThread.on_start, "self._consumer = self._create_consumer(loop=self.thread_loop)"),
        (AIOKafkaConsumerThread.commit, "return await self.call_thread(self._commit, offsets)"),
        (FaustTransport.create_consumer, "return self.Consumer(self, callback=callback, loop=self.loop, **kwargs)"),
        (faust.App._on_partitions_revoked, "await T(self._consumer_wait_empty)(consumer, on_timeout)"),
        (faust.App._consumer_wait_empty, "await consumer.wait_empty()"),
        (faust.App._on_partitions_assigned, "await T(self.tables.on_rebalance)"),
        (TableManager.on_rebalance, "await T(self.recovery.on_rebalance)"),
        (ModeWorker._install_signal_handlers_unix, "self.loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)"),
        (ModeWorker._on_sigterm, "self._schedule_shutdown(signal.SIGTERM)"),
        (ModeWorker._on_sigint, "self._schedule_shutdown(signal.SIGINT)"),
        (ModeWorker._on_sigusr1, "self.add_future(self._cry())"),
        (ModeWorker._on_sigusr2, "self._enter_debugger()"),
        (ModeWorker.execute_from_commandline, "self.stop_and_shutdown()"),
        (ModeWorker.stop_and_shutdown, "self._shutdown_loop()"),
        (faust.App, "return self._new_web()"),
        (BaseRunner.cleanup, "await self._server.shutdown(self._shutdown_timeout)"),
        (faust.Table._new_store, "return self._new_store_by_url(self._store or self.app.conf.store)"),
        (RocksDBStore._db_for_partition, "self._dbs[partition] = self._open_for_partition(partition)"),
    ],
    ids=lambda part: getattr(part, "__qualname__", None),
)
def test_what_is_overridden_is_called_from_where_it_was(caller: Any, call: str) -> None:
    assert call in source(caller)


def test_a_rebalance_waits_for_the_partitions_and_the_listener_tells_the_generation() -> None:
    """`on_partitions_assigned` is awaited by the group's coordinator before it fetches, with the new generation."""
    heard = source(FaustConsumer.RebalanceListener.on_partitions_assigned)
    assert "self._thread.app.consumer_generation_id = generation" in heard
    assert "await self._thread.on_partitions_assigned(ensure_TPset(assigned), generation)" in heard
    joined = source(GroupCoordinator._on_join_complete)
    assert "await res" in joined
    assert joined.index("self._subscription.assign_from_subscribed") < joined.index("on_partitions_assigned")


# -- fetching ----------------------------------------------------------------------------------------------------------


async def test_the_fetcher_is_made_with_the_isolation_level_that_stands_on_the_consumer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def spy(*_: Any, isolation_level: str, **__: Any) -> Any:
        made.append(isolation_level)
        raise InterruptedError  # far enough

    monkeypatch.setattr(aiokafka_consumer, "Fetcher", spy)
    plain = aiokafka.AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    monkeypatch.setattr(plain, "_client", Mock(bootstrap=AsyncMock(), close=AsyncMock(), api_version=(2, 0)))
    plain._isolation_level = "read_committed"
    with pytest.raises(InterruptedError):
        await plain.start()
    await plain.stop()
    assert made == ["read_committed"]


def test_the_end_of_a_topic_is_asked_for_with_the_isolation_level() -> None:
    """Recovery must not wait for a transaction that is still open."""
    assert "OffsetRequest(-1, self._isolation_level" in source(aiokafka_fetcher.Fetcher._proc_offset_request)
    assert "await consumer.end_offsets(partitions)" in source(AIOKafkaConsumerThread._highwaters)


def test_a_record_is_handed_out_as_the_parser_made_it() -> None:
    made = builder(DefaultRecordBatchBuilder)
    made.append(0, 17, b"key", b"value", [("name", b"header")])
    fetched = aiokafka_fetcher.PartitionRecords(
        TopicPartition("events", 0), aiokafka_fetcher.MemoryRecords(bytes(made.build())), [], 0, None, None, True, 0
    )
    (record,) = list(fetched)
    assert (record.offset, record.timestamp, record.key, record.value) == (0, 17, b"key", b"value")
    assert list(record.headers) == [("name", b"header")]
    assert type(record).__module__.startswith("aiokafka.record")
    assert fetched.next_fetch_offset == 1


def test_a_fetch_is_made_and_handed_out_by_the_classes_that_stand_in_the_module() -> None:
    """`Portions` stands for `FetchResult`: one of another type would be taken for an error."""
    received = source(aiokafka_fetcher.Fetcher._proc_fetch_request)
    for made in ("= MemoryRecords(part_data[-1])", "= PartitionRecords(", "= FetchResult("):
        assert made in received
    handed = source(aiokafka_fetcher.Fetcher.fetched_records)
    assert "if type(res_or_error) is FetchResult: records = res_or_error.getall(max_records)" in handed
    assert "if not res_or_error.has_more():" in handed
    stock = source(Portions.__base__.getall)
    assert stock.startswith("def getall(self, max_records=None): tp = self._topic_partition if not self.check_assign")
    assert "else: self._update_position() self._partition_records = None" in stock
    assert (aiokafka_fetcher.FetchResult, aiokafka_fetcher.PartitionRecords) == (Portions, Records)


def test_what_stands_on_the_records_is_all_that_unpacking_goes_on_from() -> None:
    """So a batch that raised may be left behind, and the next be read by a new iterator."""
    steps = source(aiokafka_fetcher.PartitionRecords._unpack_records)
    assert "tp = self._tp records = self._records while records.has_next(): next_batch = records.next_batch()" in steps
    assert "next_batch = records.next_batch() if self._check_crcs and not next_batch.validate_crc():" in steps
    assert steps.index("in self._aborted_producers") < steps.index("for record in next_batch:")
    assert steps.endswith("self.next_fetch_offset = next_batch.next_offset")


def bounded(module: Any, decode: str) -> Any:
    """What unpacks for a parser; for the quick one, within the bound on headers."""
    codec = getattr(module, decode)
    if module is default_records:
        assert codec.func is records._few_headers
        (codec,) = codec.args
    return codec


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("parser", [_DefaultRecordBatchPy, DefaultRecordBatch])
def test_a_batch_is_unpacked_by_the_codec_that_stands_in_the_parser_s_module(
    parser: Any, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = builder(DefaultRecordBatchBuilder, compression_type=kind)
    made.append(0, 17, b"key", b"value", [])
    name = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}[kind]
    module = {_DefaultRecordBatchPy: record_batches, DefaultRecordBatch: default_records}[parser]
    assert bounded(module, f"{name}_decode") is getattr(unpack, name)
    monkeypatch.setattr(module, f"{name}_decode", Mock(side_effect=Invalid("too_large", "it is")))
    with pytest.raises(Invalid, match="it is"):
        next(iter(parser(bytes(made.build()))))


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_batch_of_a_former_format_likewise(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = LegacyRecordBatchBuilder(magic=1, compression_type=kind, batch_size=1000)
    made.append(0, 17, b"key", b"value")
    built = bytes(made.build())
    name = {1: "gzip", 2: "snappy", 3: "lz4"}[kind]
    assert getattr(legacy_records, f"{name}_decode") is getattr(unpack, name)
    monkeypatch.setattr(legacy_records, f"{name}_decode", Mock(side_effect=Invalid("too_large", "it is")))
    with pytest.raises(Invalid, match="it is"):
        list(LegacyRecordBatch(built, 1))


def test_no_other_place_unpacks() -> None:
    modules = (record_batches, default_records, legacy_records)
    ours = {name for name in dir(unpack) if f"{name}_decode" in dir(record_batches)}
    assert ours == {"gzip", "snappy", "lz4", "zstd"}
    for module in modules:
        found = {name for name in dir(module) if name.endswith("_decode")}
        assert all(bounded(module, name) is getattr(unpack, name.removesuffix("_decode")) for name in found)


def test_records_taken_at_once_are_bounded() -> None:
    app = intent_app()
    assert app.conf.broker_max_poll_records == 20_000
    created = source(AIOKafkaConsumerThread._create_worker_consumer)
    assert "max_poll_records=conf.broker_max_poll_records" in created
    assert "check_crcs=conf.broker_check_crcs" in created
    assert app.conf.broker_check_crcs
    assert "max_records=_consumer._max_poll_records" in source(AIOKafkaConsumerThread.getmany)


async def test_a_state_knows_position_and_last_stable_offset() -> None:
    state: Any = TopicPartitionState(Mock())
    assert (state.has_valid_position, state.lso) == (False, None)
    state.reset_to(7)
    assert (state.has_valid_position, state.position) == (True, 7)
    assert {"tps", "state_value"} <= {name for name in dir(Assignment) if not name.startswith("_")}


async def test_a_consumer_has_the_connections_and_the_subscription_that_are_looked_at() -> None:
    plain = aiokafka.AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    assert plain._client._conns == {}
    assert plain._subscription.subscription is None
    await plain.stop()
    assert "_conns" in source(aiokafka.client.AIOKafkaClient._get_conn)
    assert "def connected" in source(aiokafka.conn.AIOKafkaConnection)


def test_no_fetch_is_handed_out_from_another_position_than_the_one_sought() -> None:
    """Contiguity relies on it: what was under way when a seek came is dropped."""
    assert "position != self._partition_records.next_fetch_offset" in source(
        aiokafka_fetcher.FetchResult.check_assignment
    )


def test_what_waits_holds_up_the_next_fetch_by_the_backoff_that_stands_on_the_fetcher() -> None:
    assert "backoff=self._prefetch_backoff" in source(aiokafka_fetcher.Fetcher._proc_fetch_request)


def test_what_ails_the_coordination_is_told_to_those_who_ask() -> None:
    asked = source(GroupCoordinator.check_errors)
    assert "self._coordination_task.result()" in asked
    assert "raise exc" in asked
    assert "self._pending_exception = exc" in source(GroupCoordinator._push_error_to_user)
    assert "self._coordinator = GroupCoordinator(" in source(aiokafka.AIOKafkaConsumer.start)


async def test_how_long_nothing_was_fetched_is_read_from_where_we_set_it() -> None:
    """Who has fetched nothing for too long does not join its group again."""
    state = SubscriptionState()
    state._last_fetch_ended = time.monotonic() - 100
    assert state.fetcher_idle_time >= 100
    joining = inspect.getsource(GroupCoordinator)
    assert "if prev_assignment is not None and idle_time >= self._max_poll_interval:" in joining


def test_no_partition_at_all_is_taken_for_every_partition() -> None:
    """A trap: when the last active partition is paused, a fetch under way brings those that are paused too."""
    assert "if partitions and tp not in partitions:" in source(aiokafka_fetcher.Fetcher.fetched_records)
    assert parameters(FaustConsumer._getmany) == ["self", "active_partitions", "timeout"]


def test_the_next_records_are_fetched_only_for_active_partitions_while_the_flow_is_on() -> None:
    waits = source(PlainConsumer._wait_next_records)
    assert "if not self.flow_active:" in waits
    assert "active_partitions = self._get_active_partitions()" in waits
    assert parameters(PlainConsumer._wait_next_records) == ["self", "timeout"]
    assert {"suspend_flow", "can_resume_flow", "_read_offset", "_committed_offset"} <= set(
        re.findall(r"self\.(\w+) = ", inspect.getsource(PlainConsumer.__init__))
    )


def test_the_livelock_detector_asks_the_consumer() -> None:
    assert "self.verify_event_path(now, tp)" in source(PlainConsumer.verify_all_partitions_active)
    assert "self._verify_aiokafka_event_path(now, tp)" in source(AIOKafkaConsumerThread.verify_recovery_event_path)


def test_the_monitor_is_told_where_a_partition_ends() -> None:
    monitor = Monitor()
    monitor.track_tp_end_offset(TP("events", 0), 3)
    assert monitor.tp_end_offsets[TP("events", 0)] == 3


# -- recovery ----------------------------------------------------------------------------------------------------------


def test_recovery_is_needed_until_each_active_offset_is_at_its_highwater(recovery: Recovery) -> None:
    recovery.active_tps.add(CHANGELOG)
    recovery.active_highwaters[CHANGELOG] = 9
    recovery.active_offsets[CHANGELOG] = 8
    assert recovery.need_recovery()
    recovery.active_offsets[CHANGELOG] = 9
    assert not recovery.need_recovery()


def test_an_ended_recovery_is_over_for_the_app_too(app: faust.App, recovery: Recovery) -> None:
    for begin, running in ((recovery._set_recovery_started, True), (recovery._set_recovery_ended, False)):
        begin()
        assert (recovery.in_recovery, app.in_recovery) == (running, running)
    recovery.signal_recovery_end.set()
    assert recovery.signal_recovery_end is recovery._signal_recovery_end


def test_standbys_are_kept_apart(recovery: Recovery) -> None:
    table = Mock(persisted_offset=lambda _: 4)
    recovery.add_standby(table, CHANGELOG)
    assert recovery.standby_tps == {CHANGELOG}
    assert recovery.standby_offsets[CHANGELOG] == 4
    assert recovery.standby_highwaters == {}
    assert recovery.active_tps == set()


def test_the_order_of_a_recovery() -> None:
    steps = source(Recovery._restart_recovery)
    order = (
        '_build_highwaters)( consumer, assigned_active_tps, active_highwaters, "active"',
        '_build_offsets)( consumer, assigned_active_tps, active_offsets, "active"',
        '_seek_offsets)( consumer, assigned_active_tps, active_offsets, "active"',
        "if self.need_recovery():",
        "T(consumer.resume_partitions)(active_tps)",
        "await self._wait(self.signal_recovery_end.wait())",
        "T(consumer.resume_partitions)(standby_tps)",
        "on_recovery_completed)(generation_id)",
    )
    places = [steps.find(step) for step in order]
    assert -1 not in places
    assert places == sorted(places)


def test_sources_are_resumed_when_recovery_is_complete_and_then_sought() -> None:
    steps = source(Recovery.on_recovery_completed)
    resumed = steps.index("consumer.resume_partitions( {tp for tp in assignment if not self._is_changelog_tp(tp)} )")
    assert resumed < steps.index("consumer.perform_seek()") < steps.index("self.completed.set()")


def test_the_end_of_a_changelog_is_its_last_offset() -> None:
    assert "tp: value - 1 if value is not None else -1" in source(Recovery._build_highwaters)


# -- the store ---------------------------------------------------------------------------------------------------------


def test_a_store_opens_a_partition_once_and_reads_its_offset_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = faust.App("unit", autodiscover=False, store="rocksdb://", datadir=tmp_path)
    table: Any = app.Table("windows", partitions=1, options={"driver": "rocksdict"})
    store = RocksDBStore("rocksdb://", app, table, options={"driver": "rocksdict"})
    opened = {b"mine": b"41"}
    monkeypatch.setattr(store, "_open_for_partition", lambda _: opened)
    monkeypatch.setattr(store, "offset_key", b"mine")
    assert store.persisted_offset(CHANGELOG) == 41
    assert store._dbs == {0: opened}
    assert store._db_for_partition(0) is opened
    assert store.partition_path(0).is_relative_to(app.conf.tabledir)


# -- the transaction ---------------------------------------------------------------------------------------------------


def test_the_wait_between_transactions_is_read_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka_sender, "BACKOFF_OVERRIDE", 0.123)
    sender: Any = SimpleNamespace(_retry_backoff=0.1, _txn_manager=SimpleNamespace(txn_partitions=set()))
    handler = aiokafka_sender.AddPartitionsToTxnHandler(sender, [TopicPartition("scores", 0)])
    answer = SimpleNamespace(errors=[("scores", [(0, ConcurrentTransactions.errno)])])
    assert handler.handle_response(answer) == 0.123


async def test_a_batch_of_the_producer_takes_records_from_its_builder() -> None:
    batch = BatchBuilder(1000, 3, is_transactional=1)
    assert batch._builder.append(0, 17, b"key", b"value", []) is not None
    batch._relative_offset = 1
    assert batch.record_count() == 1
    batch.close()


def test_the_codec_of_a_batch_is_looked_up_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[bytes] = []

    def encode(plain: bytes) -> bytes:
        packed.append(bytes(plain))
        return bytes(lz4_encode(plain))

    monkeypatch.setattr(default_records, "lz4_encode", encode)
    made = builder(DefaultRecordBatchBuilder, compression_type=3)
    made.append(0, 17, b"key", b"value", [])
    made.build()
    assert len(packed) == 1


async def test_a_started_producer_has_fenced_its_former_owner() -> None:
    """`start` returns only once the producer's id is initialised."""
    assert "await self._sender.start()" in source(aiokafka.AIOKafkaProducer.start)
    assert source(aiokafka_sender.Sender.start).startswith("async def start(self): await self._maybe_wait_for_pid()")


# -- the process -------------------------------------------------------------------------------------------------------


async def test_only_the_first_signal_is_remembered(app: faust.App) -> None:
    worker = faust.Worker(app, override_logging=False, redirect_stdouts=False, loop=asyncio.get_running_loop())
    stop = AsyncMock()
    worker._stop_on_signal = stop  # type: ignore[method-assign]
    assert not worker._signal_stop_time
    worker._schedule_shutdown(signal.SIGTERM)
    assert worker._signal_stop_time
    worker._schedule_shutdown(signal.SIGTERM)
    await asyncio.sleep(0)
    stop.assert_awaited_once_with(signal.SIGTERM)


def test_what_is_left_out_after_a_stop_waits_and_closes_the_loop() -> None:
    """And raises what crashed a service, which is why `Runner` ends the process for it."""
    left_out = source(ModeWorker._shutdown_loop)
    assert "raise self.crash_reason from self.crash_reason" in left_out
    assert "self.loop.close()" in left_out
    assert "await asyncio.sleep(1.0)" in source(ModeWorker._sentinel_task)


def test_an_app_makes_its_transport_once_by_the_hook(app: faust.App, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [object()]
    monkeypatch.setattr(app, "_new_transport", made.pop)
    transport: Any = app.transport
    assert transport is app.transport
    assert made == []


def intent_app(**worker: object) -> IntentApp:
    engine = Mock(model=SimpleNamespace(version="1"), queued=0)
    engine.model.name = "m"
    return IntentApp(
        config.load({"worker": worker}),
        engine=engine,
        metrics=Metrics(CollectorRegistry()),
        changelog=Changelog("topic", 0),
        shadow=None,
    )


@pytest.mark.parametrize(
    ("host", "url"), [("::", "http://[::]:6066"), ("::1", "http://[::1]:6066"), ("here", "http://here:6066")]
)
def test_an_address_with_colons_has_a_url(host: str, url: str) -> None:
    """Faust makes none of it that can be read, and needs one to start."""
    assert str(intent_app(web_host=host).conf.canonical_url) == url
    assert str(intent_app(web_host=host, instance_id="only").conf.canonical_url) == "http://only"


async def test_the_metric_says_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    app = intent_app(transaction_timeout_s=600)
    state = State(
        recovered=True, engine_alive=True, broker_reachable=True, led=True, lag_events=1, since_progress_s=2000.0
    )
    monkeypatch.setattr(app, "condition", lambda: state)
    ready = partial(app.metrics.registry.get_sample_value, "intent_ready")
    assert ready() == 1.0
    state = dataclasses.replace(state, since_progress_s=2500.0)
    assert ready() == 0.0


async def test_a_long_transaction_is_no_reason_to_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(
        recovered=True, engine_alive=True, broker_reachable=True, led=True, lag_events=1, since_progress_s=2000.0
    )
    alive = []
    for limit_s in (600, 30):
        app = intent_app(transaction_timeout_s=limit_s)
        monkeypatch.setattr(app, "condition", lambda: state)
        alive.append((await app._livez(None)).status)
    assert alive == [200, 503]


async def test_a_recovery_that_gives_up_tells_the_quota_that_held_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def given_up(*_: object) -> None:
        raise ServiceStopped

    said: list[str] = []
    monkeypatch.setattr(stream, "end_process", lambda why, _: said.append(why))
    app, held = intent_app(), Quota()
    monkeypatch.setattr(stream, "quota", held)
    for throttle_time_ms in (0, 40_000):
        held.heed(SimpleNamespace(throttle_time_ms=throttle_time_ms))
        with pytest.raises(ServiceStopped):
            await app._wait_in_recovery(given_up, None)
    assert said[0] == "recovery gave up: the brokers did not answer in time"
    assert said[1].startswith("recovery gave up: Kafka holds this worker back by a quota, for 40 s")


async def test_a_recovery_without_progress_is_told_by_its_setting() -> None:
    app = intent_app(recovery_timeout_s=77)
    app.recovery_progressed()
    assert {name: within_s for name, (_, within_s) in app.watchdog._deadlines.items()} == {
        "progress in recovery (`worker.recovery_timeout_s`)": 77
    }


async def test_a_stall_is_told_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    app = intent_app()
    state = State(
        recovered=True, engine_alive=True, broker_reachable=True, led=True, lag_events=1, since_progress_s=119.0
    )
    beats = [119.0, 121.0, 122.0, 1.0, 121.0]
    monkeypatch.setattr(app, "condition", lambda: dataclasses.replace(state, since_progress_s=beats[0]))
    app.consumer = Mock()

    async def slept(_: float) -> None:
        beats.pop(0)
        if not beats:
            app._stopped.set()

    monkeypatch.setattr(app, "sleep", slept)
    beat: Any = IntentApp._beat
    with capture_logs() as told:
        await beat.fun(app)
    assert [(line["log_level"], line["since_progress_s"]) for line in told] == [("error", 121), ("error", 121)]


def test_the_collector_works_again_once_all_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` and its like switch it off while they import; of what is there then, it looks at nothing ever again."""
    collector, runner = Mock(), Mock(execute_from_commandline=Mock(side_effect=SystemExit))
    monkeypatch.setattr(stream, "gc", collector)
    monkeypatch.setattr(stream, "Runner", Mock(return_value=runner))
    monkeypatch.setattr(stream, "exit_now", Mock(side_effect=InterruptedError))
    for part in ("IntentApp", "event_loop", "topics"):
        monkeypatch.setattr(stream, part, Mock())
    with pytest.raises(InterruptedError):
        stream.serve(config.load(), engine=Mock(), metrics=Mock())
    told = [call[0] for call in collector.method_calls]
    assert (told[:2], told[-1]) == (["collect", "freeze"], "enable")


async def test_the_tables_are_known_at_once_and_before_faust_subscribes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust's own manager does the same, a second later."""
    theirs = source(TableManager.on_start)
    assert theirs.endswith("await self._update_channels() await self.recovery.start()")
    tables: Any = intent_app().tables
    start, sleep = AsyncMock(), AsyncMock()
    monkeypatch.setattr(tables.recovery, "start", start)
    monkeypatch.setattr(tables, "_update_channels", update := AsyncMock())
    monkeypatch.setattr(tables, "sleep", sleep)
    await tables.on_start()
    update.assert_awaited_once_with()
    start.assert_awaited_once_with()
    sleep.assert_not_awaited()
    subscribes = source(Conductor._subscriber)
    assert subscribes.index("tables.wait_until_tables_registered()") < subscribes.index("consumer.subscribe(")


def test_faust_s_own_pages_are_off() -> None:
    """The port has no login: Faust's tables and router would tell of keys and partitions."""
    app = intent_app()
    assert [str(blueprint) for _, blueprint in app.web._enabled_blueprints()] == [
        "faust.web.apps.production_index:blueprint"
    ]
