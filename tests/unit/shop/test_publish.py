from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from worker.errors import IntentError
from worker.events import Event, decode
from worker.shop.outgoing import Outgoing, played
from worker.shop.publish import Publisher

WALL_S = 1_700_000_000.0


class Refusal:
    def str(self) -> str:
        return "the broker is on fire"


class FakeKafka:
    """A producer and the clock that it lives by: polling takes time, producing takes `produce_s`."""

    def __init__(self, *, capacity: int = 1_000_000, produce_s: float = 0.0, ack_per_poll: int = 1_000_000) -> None:
        self.now_s = 0.0
        self.sent: list[tuple[float, int, bytes | None]] = []
        self.waiting: deque[Callable[[Any, Any], None]] = deque()
        self.refuse: set[bytes | None] = set()
        self._capacity, self._produce_s, self._ack_per_poll = capacity, produce_s, ack_per_poll

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        *,
        timestamp: int = 0,
        on_delivery: Callable[[Any, Any], None] | None = None,
    ) -> None:
        assert topic == "events"
        assert on_delivery is not None
        if len(self.waiting) >= self._capacity:
            raise BufferError
        self.now_s += self._produce_s
        self.sent.append((self.now_s, timestamp, value))
        error = Refusal() if value in self.refuse else None
        self.waiting.append(lambda *_: on_delivery(error, key))

    def poll(self, timeout: float = 0.0) -> int:
        self.now_s += timeout
        for _ in range(min(self._ack_per_poll, len(self.waiting))):
            self.waiting.popleft()(None, None)
        return 0

    def flush(self, timeout: float = 0.0) -> int:
        if self._ack_per_poll:
            self.poll(timeout)
        return len(self.waiting)


def publisher(kafka: FakeKafka) -> Publisher:
    return Publisher(kafka, "events", monotonic_s=lambda: kafka.now_s, wall_s=lambda: WALL_S)


def every(gap_s: float, count: int) -> Iterator[Outgoing]:
    for number in range(count):
        yield Outgoing(number * gap_s, b"k", str(number).encode())


@pytest.mark.parametrize("gap_s", [2.0, 0.01, 0.0001], ids=["slow", "usual", "faster than a wait can be"])
def test_each_record_leaves_at_its_due_time_with_it_as_timestamp(gap_s: float) -> None:
    kafka = FakeKafka()
    sender = publisher(kafka)
    sender.run(every(gap_s, 200))
    sender.finish()
    for number, (at_s, timestamp_ms, value) in enumerate(kafka.sent):
        assert value == str(number).encode()
        assert 0 <= at_s - number * gap_s + 1e-9 <= 0.0011
        assert timestamp_ms == int(WALL_S * 1000 + number * gap_s * 1000)
    assert (sender.sent, sender.acked, sender.failed) == (200, 200, 0)
    assert sender.delay_ms.get_max_value() <= 2


def test_missing_acknowledgements_hold_nothing_up() -> None:
    kafka = FakeKafka(ack_per_poll=0)
    sender = publisher(kafka)
    sender.run(every(0.1, 50))
    assert sender.sent == 50
    assert sender.acked == 0
    assert kafka.now_s == pytest.approx(4.9, abs=0.01)


def test_a_sender_that_cannot_keep_up_says_by_how_much_and_keeps_the_scheduled_times() -> None:
    kafka = FakeKafka(produce_s=0.01)
    sender = publisher(kafka)
    sender.run(every(0.001, 300))
    assert sender.delay_ms.get_max_value() == pytest.approx(300 * 0.009 * 1000, rel=0.02)
    assert kafka.sent[-1][1] == int(WALL_S * 1000 + 299)


def test_a_full_local_queue_makes_room_and_loses_nothing() -> None:
    kafka = FakeKafka(capacity=10, ack_per_poll=3)
    sender = publisher(kafka)
    sender.run(every(0.001, 100))
    assert [value for _, _, value in kafka.sent] == [str(number).encode() for number in range(100)]


def test_without_a_schedule_everything_goes_at_once() -> None:
    kafka = FakeKafka()
    sender = publisher(kafka)
    sender.run(Outgoing(None, b"k", b"v") for _ in range(5000))
    assert kafka.now_s == 0
    assert sender.sent == 5000


class SlowKafka(FakeKafka):
    """Answers in their order, so many a second at most; what has waited for 30 s is given up."""

    def __init__(self, *, per_s: float) -> None:
        super().__init__(capacity=100_000, ack_per_poll=0)
        self._per_s = per_s
        self._answered = 0

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        *,
        timestamp: int = 0,
        on_delivery: Callable[[Any, Any], None] | None = None,
    ) -> None:
        super().produce(topic, value, key, timestamp=timestamp, on_delivery=on_delivery)
        assert on_delivery is not None
        self.waiting[-1] = on_delivery

    def poll(self, timeout: float = 0.0) -> int:
        self.now_s += timeout
        while self.waiting and self._answered < self.now_s * self._per_s:
            waited_s = self.now_s - self.sent[self._answered][0]
            self._answered += 1
            self.waiting.popleft()(Refusal() if waited_s > 30 else None, None)
        return 0

    def flush(self, timeout: float = 0.0) -> int:
        end_s = self.now_s + timeout
        while self.waiting and self.now_s < end_s:
            self.poll(0.05)
        return len(self.waiting)


@pytest.mark.parametrize(("per_s", "seconds"), [(60, 90), (500, 90), (5000, 12)])
def test_without_a_schedule_no_more_waits_than_slow_brokers_answer_in_time(per_s: int, seconds: int) -> None:
    kafka = SlowKafka(per_s=per_s)
    sender = publisher(kafka)
    count = per_s * seconds
    sender.run(Outgoing(None, b"k", b"v") for _ in range(count))
    sender.finish()
    assert (sender.sent, sender.acked, sender.failed) == (count, count, 0)
    assert kafka.now_s == pytest.approx(seconds, rel=0.05), "and the brokers always have something to do"


def test_without_a_schedule_brokers_that_are_away_hold_up_nothing_for_long() -> None:
    class Away(SlowKafka):
        def poll(self, timeout: float = 0.0) -> int:
            self.now_s += timeout
            while self.waiting and self.now_s - self.sent[self._answered][0] > 30:
                self._answered += 1
                self.waiting.popleft()(Refusal(), None)
            return 0

    kafka = Away(per_s=0)
    sender = publisher(kafka)
    sender.run(Outgoing(None, b"k", b"v") for _ in range(50_000))
    assert sender.sent == 50_000
    assert kafka.now_s < 31
    with pytest.raises(IntentError, match="and no quota too low"):
        sender.finish()


def test_undelivered_events_fail_at_the_end_with_the_first_reason() -> None:
    kafka = FakeKafka()
    kafka.refuse = {b"3", b"7"}
    sender = publisher(kafka)
    sender.run(every(0.001, 10))
    with pytest.raises(IntentError, match="2 of 10 events were not delivered to events: the broker is on fire"):
        sender.finish()


def test_unanswered_events_fail_at_the_end() -> None:
    kafka = FakeKafka(ack_per_poll=0)
    sender = publisher(kafka)
    sender.run(every(0.001, 10))
    with pytest.raises(IntentError, match=r"10 of 10 .* no answer within 5 s"):
        sender.finish(timeout_s=5)


def test_stops_when_told_even_while_it_waits() -> None:
    kafka = FakeKafka()
    sender = publisher(kafka)
    sender.run(every(3600.0, 3), stopped=lambda: kafka.now_s > 10)
    assert sender.sent == 1
    assert kafka.now_s < 11


def test_recorded_events_are_played_at_a_multiple_of_their_time() -> None:
    times_ms = [10_000, 12_000, 11_000, 20_000]
    events = [
        Event(event_id=str(n), user_id="u", event_time=time_ms, type="page_view") for n, time_ms in enumerate(times_ms)
    ]
    at_ten = list(played(events, speed=10))
    assert [record.due_s for record in at_ten] == [0.0, 0.2, 0.2, 1.0]
    assert [record.due_s for record in played(events, speed=None)] == [None] * 4
    for event, record in zip(events, at_ten, strict=True):
        assert decode(record.value, key=record.key, timestamp_ms=20_000) == event
