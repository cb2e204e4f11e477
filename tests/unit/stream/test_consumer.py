"""What the consumer says of its place in the group."""

import asyncio
import time
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import InvalidSessionTimeoutError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

from worker.errors import Fatal
from worker.settings import Settings
from worker.stream import consumer as consumer_module
from worker.stream.consumer import Consumer, ReadCommittedThread


def test_a_session_that_the_brokers_do_not_allow_is_told_by_the_setting() -> None:
    class Coordinator:
        def check_errors(self) -> None:
            raise InvalidSessionTimeoutError

    consumer: Any = SimpleNamespace(
        app=SimpleNamespace(settings=Settings()),
        _thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=Coordinator())),
    )
    with pytest.raises(Fatal, match=r"no session of `worker\.session_timeout_s`, which is 10; choose one"):
        Consumer.check_group(consumer)


@pytest.mark.parametrize(
    ("stopping", "crashed", "told"),
    [
        pytest.param(True, False, ["closed", "limited", "committed"], id="a stop"),
        pytest.param(True, True, ["closed", "committed"], id="a crash, which must not pass for a clean stop"),
        pytest.param(False, False, ["closed", "committed"], id="a rebalance"),
    ],
)
async def test_only_a_stop_gives_the_group_a_limited_time_and_not_before_all_is_committed(
    stopping: bool, crashed: bool, told: list[str]
) -> None:
    heard: list[str] = []

    async def close() -> None:
        heard.append("closed")

    async def commit() -> None:
        heard.append("committed")

    app = SimpleNamespace(
        should_stop=stopping,
        crashed=crashed,
        close_partitions=close,
        limit_farewell=lambda: heard.append("limited"),
    )
    consumer: Any = SimpleNamespace(app=app, commit_and_end_transactions=commit)
    await Consumer.wait_empty(consumer)
    assert heard == told


@pytest.mark.parametrize("taken", [True, False], ids=["milliseconds", "of a topic that is gone, for ever"])
async def test_nothing_waits_long_for_the_group_s_offsets(monkeypatch: pytest.MonkeyPatch, *, taken: bool) -> None:
    monkeypatch.setattr(consumer_module, "_COMMIT_S", 0.05)

    async def commit(_: Any, offsets: Any) -> bool:
        assert offsets == {TP("events", 0): 3}
        if not taken:
            await asyncio.Event().wait()
        return True

    monkeypatch.setattr(AIOKafkaConsumerThread, "_commit", commit)
    thread = ReadCommittedThread.__new__(ReadCommittedThread)
    assert await asyncio.wait_for(thread._commit({TP("events", 0): 3}), 10) is taken


def test_a_connection_that_is_made_meanwhile_does_not_break_the_health_page() -> None:
    """The consumer's thread opens and drops them while the event loop looks."""
    connections: dict[int, Any] = {}

    class Connection:
        def connected(self) -> bool:
            connections[len(connections)] = self
            return False

    connections[0] = Connection()
    consumer: Any = SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_client=SimpleNamespace())))
    consumer._thread._consumer._client._conns = connections
    connected: Any = Consumer.connected
    assert connected.fget(consumer) is False


@pytest.mark.parametrize(
    ("leaders", "led"),
    [
        pytest.param({0: 1, 1: 2}, True, id="each has one"),
        pytest.param({0: 1, 1: -1}, False, id="the brokers know none of one"),
        pytest.param({0: 1}, False, id="the brokers do not know one"),
    ],
)
def test_a_partition_without_a_leader_is_noticed(leaders: dict[int, int], led: bool) -> None:
    cluster = SimpleNamespace(leader_for_partition=lambda tp: leaders.get(tp.partition))
    thread = SimpleNamespace(_consumer=SimpleNamespace(_client=SimpleNamespace(cluster=cluster)))
    due = {TP("events", 0): 3, TP("events", 1): 0}
    property_: Any = Consumer.led
    consumer: Any = SimpleNamespace(_thread=thread, app=SimpleNamespace(partitions=SimpleNamespace(due=lambda: due)))
    assert property_.fget(consumer) is led


def test_whoever_owns_no_partition_needs_no_leader() -> None:
    property_: Any = Consumer.led
    partitions = SimpleNamespace(due=dict)
    assert property_.fget(SimpleNamespace(_thread=None, app=SimpleNamespace(partitions=partitions)))


@pytest.mark.parametrize(
    ("asked_s_ago", "errors"),
    [
        pytest.param(1.0, 0, id="the first events after twenty quiet minutes"),
        pytest.param(1200.0, 1, id="nothing is fetched any more"),
    ],
)
def test_faust_calls_no_quiet_topic_a_stall(asked_s_ago: float, errors: int) -> None:
    now, tp = time.monotonic(), TP("events", 0)
    state = SimpleNamespace(timestamp=(now - asked_s_ago) * 1000, highwater=5, position=3)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    subscriptions = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    told: list[Any] = []
    app = SimpleNamespace(
        monitor=SimpleNamespace(stream_inbound_time={tp: now - 1200}),
        topics=SimpleNamespace(acks_enabled_for=lambda _: True),
        conf=SimpleNamespace(stream_processing_timeout=300.0, broker_commit_livelock_soft_timeout=300.0),
    )
    thread: Any = SimpleNamespace(
        _ensure_consumer=lambda: SimpleNamespace(_fetcher=SimpleNamespace(_subscriptions=subscriptions)),
        consumer=SimpleNamespace(app=app),
        log=SimpleNamespace(error=lambda *line: told.append(line)),
        time_started=now - 3600,
        tp_fetch_request_timeout_secs=300.0,
        tp_stream_timeout_secs=300.0,
        tp_commit_timeout_secs=300.0,
        tp_last_committed_at={tp: now - 1200},
    )
    for name in ("_verify_aiokafka_event_path", "_log_slow_processing", "_log_slow_processing_stream"):
        setattr(thread, name, MethodType(getattr(AIOKafkaConsumerThread, name), thread))
    thread._make_slow_processing_error = lambda *words, **more: (words, more)
    faust: Any = AIOKafkaConsumerThread
    if not errors:
        faust.verify_event_path(thread, now, tp)
        assert len(told) == 1  # what Faust says by itself
        told.clear()
    consumer: Any = SimpleNamespace(
        verify_recovery_event_path=lambda *asked: faust.verify_recovery_event_path(thread, *asked)
    )
    Consumer.verify_event_path(consumer, now, tp)
    assert len(told) == errors
