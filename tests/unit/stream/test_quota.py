"""Whether a wait is put down to a quota: what the brokers' answers say, and what is made of it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from structlog.testing import capture_logs

from worker.stream import quota
from worker.stream.quota import Quota


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(quota, "time", found)
    return found


def answer(throttle_time_ms: int) -> Any:
    return SimpleNamespace(throttle_time_ms=throttle_time_ms)


def test_a_wait_is_put_down_to_a_quota_that_reached_into_it(clock: Clock) -> None:
    heard = Quota()
    heard.heed(answer(187_000))
    clock.now += 10
    cause = heard.blamed(clock.now)
    assert cause is not None
    assert "for 187 s" in cause
    assert "`producer_byte_rate`" in cause


def test_a_wait_that_began_behind_it_is_not(clock: Clock) -> None:
    heard = Quota()
    heard.heed(answer(5_000))
    clock.now += 6
    assert heard.blamed(clock.now) is None


@pytest.mark.parametrize("said", [answer(0), answer(900), SimpleNamespace(), None])
def test_a_moment_or_nothing_at_all_is_no_reason(said: Any, clock: Clock) -> None:
    heard = Quota()
    heard.heed(said)
    assert heard.blamed(clock.now) is None


def test_it_is_logged_once_a_minute(clock: Clock) -> None:
    heard = Quota()
    with capture_logs() as lines:
        for _ in range(70):
            heard.heed(answer(2_000))
            clock.now += 1
    assert [line["seconds"] for line in lines] == [2.0, 2.0]


async def test_every_answer_that_a_client_gets_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def send(self, _: object, *, expect_response: bool) -> Any:
            assert expect_response
            answered = asyncio.get_running_loop().create_future()
            answered.set_result(answer(3_000))
            return answered

    async def ready(*_: object, **__: object) -> bool:
        return True

    heard = Quota()
    monkeypatch.setattr(quota, "quota", heard)
    monkeypatch.setattr(AIOKafkaClient, "ready", ready)
    client = AIOKafkaClient()
    monkeypatch.setattr(client, "_conns", {(1, 0): Connection()})
    said = await client.send(1, None, group=0)
    assert said.throttle_time_ms == 3_000
    assert heard.blamed(0.0) is not None


@pytest.mark.parametrize("asked", [FetchRequest, ProduceRequest], ids=lambda asked: str(asked.__name__))
def test_answers_tell_it_by_the_name_that_is_looked_for(asked: Any) -> None:
    newest = asked._CLASSES[-1]
    assert "throttle_time_ms" in newest.RESPONSE_TYPE.SCHEMA.names
