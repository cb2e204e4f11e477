"""The challenger's scores: whose, what they say, and that whatever fails is counted and holds nobody up."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry

from worker import config, events, facts, scores, window
from worker.fold import Updated
from worker.ops.metrics import Metrics
from worker.scores import Intent, Model, Rating, Risk
from worker.scoring.answer import Scores
from worker.stream import shadow as shadows
from worker.stream.shadow import Shadow, chosen

CHAMPION, CHALLENGER = Model("shop", "old"), Model("shop", "new")
SHARE = 0.3
SCHEMA = Path(__file__).parents[3] / "schemas" / "intent.scores.v1.json"


@dataclass
class Record:
    offset: int
    key: bytes | None
    value: bytes | None = None
    timestamp: int = 0
    headers: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass
class Engine:
    """Has room for so many offers; `outcome` is an error, or no answer at all, in place of scores."""

    room: int = 1_000_000
    outcome: Exception | None = None
    cancels: bool = False
    offers: list[int] = field(default_factory=list)

    def offer(self, windows: Sequence[bytes]) -> "Future[Scores] | None":
        if not self.room:
            return None
        self.room -= 1
        self.offers.append(len(windows))
        answer: Future[Scores] = Future()
        n = len(windows)
        if self.cancels:
            answer.cancel()
        elif self.outcome is not None:
            answer.set_exception(self.outcome)
        else:
            answer.set_result(
                Scores(
                    np.full((n, 3), 0.5, np.float32),
                    np.zeros(n, np.float32),
                    np.zeros(n, np.uint8),
                    np.full((n, 3), 255, np.uint8),
                    np.zeros((n, 3), np.float32),
                    CHALLENGER,
                )
            )
        return answer


@dataclass
class Producer:
    """Acknowledges at the next poll, or says what it was told to."""

    refuse: Exception | None = None
    error: KafkaError | None = None
    ended: KafkaException | None = None
    """What the next poll raises, as the client does that is of no further use."""
    sent: list[dict[str, Any]] = field(default_factory=list)
    due: list[Callable[..., None]] = field(default_factory=list)

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, **more: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.due.append(more.pop("on_delivery"))
        self.sent.append({"topic": topic, "value": json.loads(value), "key": key, "partition": partition, **more})

    def poll(self, _: float) -> None:
        if self.ended is not None:
            raise self.ended
        due, self.due = self.due, []
        for tell in due:
            tell(self.error, None)

    def flush(self, _: float) -> None:
        self.poll(0)

    def __len__(self) -> int:
        return len(self.due)


@dataclass
class Setup:
    shadow: Shadow
    engine: Engine
    producer: Producer
    metrics: Metrics

    def consider(self, users: range, *, times: int = 1) -> None:
        updates: list[Updated] = []
        ratings: list[Rating] = []
        for number in users:
            for _ in range(times):
                updates.append(updated(f"user-{number}", offset=len(updates)))
                ratings.append(Rating(Intent(0.1, 0.2, 0.3), Risk(0.0, ()), (), CHAMPION))
        self.shadow.consider(2, updates, ratings)

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.shadow._turn()

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"intent_shadow_{name}", labels)


def updated(user: str, *, offset: int) -> Updated:
    event = events.Event(event_id=f"e{offset}", user_id=user, event_time=1_700_000_000_000, type="page_view")
    after = window.fold(None, facts.of(event), rules=window.Rules()).window
    return Updated(Record(offset, user.encode()), event, after)


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Setup:
    """With a challenger, and no wait longer than need be."""
    monkeypatch.setattr(shadows, "_AGAIN_S", 0)
    monkeypatch.setattr(shadows, "_REPORTS_S", 0)
    settings = config.load(
        {
            "model": {"store": "/models", "name": "shop", "shadow_share": SHARE},
            "worker": {"application_id": "app"},
            "topics": {"events": "events", "shadow": "shadow"},
        }
    )
    engine, producer, metrics = Engine(), Producer(), Metrics(CollectorRegistry())
    shadow = Shadow(
        settings,
        engine=engine,
        metrics=metrics,
        now=lambda: "2026-01-01T00:00:00.000Z",
        new_producer=lambda _: producer,  # type: ignore[arg-type, return-value]  # as far as it is used
    )
    shadow.challenge(True)
    return Setup(shadow, engine, producer, metrics)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_the_share_is_of_users_and_only_grows(share: float) -> None:
    users = [f"user-{number}".encode() for number in range(20_000)]
    mine = {user for user in users if chosen(user, share)}
    assert len(mine) / len(users) == pytest.approx(share, abs=0.015)
    assert mine <= {user for user in users if chosen(user, min(1.0, share * 1.5))}


def test_the_share_is_the_same_in_every_process() -> None:
    """Else a user's shadow would come and go with the worker that has his partition."""
    assert [number for number in range(40) if chosen(f"user-{number}".encode(), 0.1)] == [7, 8, 17, 25]


def test_a_shadow_score_is_the_events_own_and_says_what_it_is(setup: Setup) -> None:
    setup.consider(range(100))
    setup.turns(3)
    schema = json.loads(SCHEMA.read_text())
    wanted = {f"user-{number}" for number in range(100) if chosen(f"user-{number}".encode(), SHARE)}
    assert {sent["value"]["user_id"] for sent in setup.producer.sent} == wanted
    for sent in setup.producer.sent:
        value, headers = sent["value"], dict(sent["headers"])
        score = scores.decode(json.dumps(value).encode())
        assert (sent["topic"], sent["partition"], sent["key"]) == ("shadow", 2, value["user_id"].encode())
        assert score.score_id == f"events-2-{score.source.offset}" == headers["ce_id"].decode()
        assert score.model == CHALLENGER
        jsonschema.validate(value, schema)
        assert score.intent.purchase_24h == 0.5
        assert headers["ce_type"] == b"intent.score.shadow.v1"
        assert headers["ce_source"] == b"app/shadow"
    assert setup.sample("scores_total") == len(wanted)
    assert setup.sample("difference_count") == len(wanted)
    assert setup.sample("difference_sum") == pytest.approx(0.3 * len(wanted))


def test_without_a_challenger_nothing_waits(setup: Setup) -> None:
    setup.engine.room = 0
    setup.consider(range(100))
    setup.shadow.challenge(False)
    setup.consider(range(100))
    setup.shadow.challenge(True)
    setup.engine.room = 9
    setup.turns(2)
    assert setup.engine.offers == []
    assert setup.sample("dropped_total", reason="gone") == sum(
        chosen(f"user-{number}".encode(), SHARE) for number in range(100)
    )


def test_a_busy_device_is_asked_again_and_nothing_is_lost_or_twice(setup: Setup) -> None:
    setup.engine.room = 0
    setup.consider(range(100))
    setup.turns(5)
    assert setup.producer.sent == []
    setup.engine.room = 9
    setup.turns(2)
    ids = [sent["value"]["score_id"] for sent in setup.producer.sent]
    assert len(ids) == len(set(ids)) == sum(chosen(f"user-{number}".encode(), SHARE) for number in range(100))
    assert setup.sample("dropped_total", reason="busy") == 0


def test_what_finds_no_room_is_dropped_and_counted(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "MAX_WAITING", 10)
    wanted = sum(chosen(f"user-{number}".encode(), SHARE) for number in range(100))
    setup.consider(range(100))
    setup.consider(range(100))
    setup.turns(3)
    assert len(setup.producer.sent) == 10
    assert setup.sample("dropped_total", reason="busy") == 2 * wanted - 10


def test_what_is_put_back_makes_no_room_for_more(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "MAX_WAITING", 10)
    setup.engine.room = 0
    offer = setup.engine.offer

    def meanwhile(windows: Sequence[bytes]) -> "Future[Scores] | None":
        setup.consider(range(100))
        return offer(windows)

    setup.engine.offer = meanwhile  # type: ignore[method-assign]
    setup.consider(range(100))
    setup.turns(1)
    setup.consider(range(100))
    assert len(setup.shadow._waiting) == 20


def test_offers_are_small(setup: Setup) -> None:
    setup.consider(range(100), times=20)
    setup.turns(100)
    assert max(setup.engine.offers) == shadows.CHUNK


def fail(setup: Setup) -> None:
    setup.engine.outcome = RuntimeError("device")


def cancel(setup: Setup) -> None:
    setup.engine.cancels = True


def full(setup: Setup) -> None:
    setup.producer.refuse = BufferError("queue full")


def unknown(setup: Setup) -> None:
    setup.producer.refuse = KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))


def undelivered(setup: Setup) -> None:
    setup.producer.error = KafkaError(KafkaError._MSG_TIMED_OUT)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(fail, "failed", id="the model"),
        pytest.param(cancel, "gone", id="the challenger went"),
        pytest.param(full, "kafka", id="the producer is full"),
        pytest.param(unknown, "kafka", id="no such topic"),
        pytest.param(undelivered, "kafka", id="no broker takes it"),
    ],
)
def test_whatever_fails_is_counted_and_the_next_ones_go_out(
    setup: Setup, spoil: Callable[[Setup], None], reason: str
) -> None:
    wanted = sum(chosen(f"user-{number}".encode(), SHARE) for number in range(100))
    spoil(setup)
    setup.consider(range(100))
    for _ in range(3):
        with suppress(RuntimeError):  # the thread logs it and goes on
            setup.shadow._turn()
    assert setup.sample("dropped_total", reason=reason) == wanted
    setup.engine.outcome, setup.engine.cancels = None, False
    setup.producer.refuse = setup.producer.error = None
    setup.consider(range(100))
    setup.turns(3)
    assert setup.sample("dropped_total", reason=reason) == wanted
    assert setup.sample("scores_total") == wanted


def test_a_client_that_is_of_no_further_use_is_replaced(setup: Setup) -> None:
    """It raises that once, when it is polled, and tells nobody what becomes of the records it has."""
    wanted = sum(chosen(f"user-{number}".encode(), SHARE) for number in range(100))
    second = Producer()
    clients = iter([setup.producer, second])
    setup.shadow._new_producer = lambda _: next(clients)  # type: ignore[assignment, return-value]  # as far as it is used
    setup.consider(range(100))
    setup.turns(1)
    setup.producer.ended = KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, fatal=True))
    setup.consider(range(100))
    setup.turns(3)
    assert len(second.sent) == setup.sample("scores_total") == wanted
    assert setup.sample("dropped_total", reason="kafka") == wanted


def test_the_thread_outlives_an_error_and_ends_when_it_is_told(setup: Setup) -> None:
    sent = threading.Event()
    setup.engine.outcome = RuntimeError("once")
    offer, produce = setup.engine.offer, setup.producer.produce

    def offer_once(windows: Sequence[bytes]) -> "Future[Scores] | None":
        answer = offer(windows)
        setup.engine.outcome = None
        return answer

    def produce_and_tell(*args: Any, **more: Any) -> None:
        produce(*args, **more)
        sent.set()

    setup.engine.offer, setup.producer.produce = offer_once, produce_and_tell  # type: ignore[method-assign]
    setup.consider(range(100), times=10)
    setup.shadow.start()
    assert sent.wait(10)
    setup.shadow.close()
    assert not setup.shadow._thread.is_alive()
    assert setup.sample("dropped_total", reason="failed") == shadows.CHUNK
