"""The publisher and its commands on a real broker."""

import itertools
import json
from collections import Counter

import pytest
import typer
from confluent_kafka import Message

from tests.conftest import MakeSettings
from worker.config import PREFIX
from worker.demo.audit import everything
from worker.errors import SettingError
from worker.settings import Settings, leaves
from worker.shop import statistics
from worker.shop.commands import simulate
from worker.shop.outgoing import Outgoing
from worker.shop.publish import Publisher, connect
from worker.shop.simulate import Crowd, Simulator

pytestmark = pytest.mark.broker

START_MS = 1_760_000_000_000

JAVA = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
"""What Kafka's own tests say that its murmur2 gives."""


def records(settings: Settings) -> list[Message]:
    return list(everything(settings, settings.topics.events))


def test_a_simulated_stream_arrives_whole_in_order_and_at_its_times(settings: MakeSettings) -> None:
    made = settings()
    crowd = Crowd(rate=2000, users=50, poison=0.02)
    stream = list(itertools.islice(Simulator(statistics.load(), crowd, seed=1, start_ms=START_MS), 600))
    publisher = Publisher(connect(made), made.topics.events)
    publisher.run(stream)
    publisher.finish()
    assert publisher.acked == 600
    read = records(made)
    assert Counter((message.key(), message.value()) for message in read) == Counter(sent[1:] for sent in stream)
    shopper = Counter(sent.key for sent in stream if sent.key).most_common(1)[0][0]
    assert [m.value() for m in read if m.key() == shopper] == [s.value for s in stream if s.key == shopper]
    due_ms = {sent.value: (sent.due_s or 0.0) * 1000 for sent in stream if sent.value}
    starts = [message.timestamp()[1] - due_ms[value] for message in read if (value := message.value())]
    assert max(starts) - min(starts) <= 2, "a record's timestamp is its scheduled send"


def test_a_java_client_would_choose_the_same_partitions(settings: MakeSettings) -> None:
    made = settings(topics={"partitions": 7})
    publisher = Publisher(connect(made), made.topics.events)
    publisher.run(Outgoing(None, key, b"{}") for key in JAVA)
    publisher.finish()
    chosen = {message.key(): message.partition() for message in records(made)}
    assert chosen == {key: (hashed & 0x7FFFFFFF) % 7 for key, hashed in JAVA.items()}


def test_a_missing_topic_is_named_before_anything_is_sent(settings: MakeSettings) -> None:
    made = settings()
    elsewhere = made.model_copy(update={"topics": made.topics.model_copy(update={"events": "nowhere"})})
    with pytest.raises(SettingError, match=r"nowhere .* `intent topics create`"):
        connect(elsewhere)


def test_intent_simulate_tells_what_it_sent(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings()
    for name, value in leaves(made):
        if value is not None:
            monkeypatch.setenv(PREFIX + name.replace(".", "__").upper(), str(value))
    simulate(events=300, rate=3000.0, duplicates=0.1, start="2026-01-02T03:04:05Z", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["sent"], told["acknowledged"], told["topic"]) == (300, 300, made.topics.events)
    assert told["made"]["shopper"] + told["made"]["duplicates"] == 300
    assert told["delay_ms"]["p99"] >= 0
    assert len(records(made)) == 300
    with pytest.raises(typer.BadParameter, match="yesterday"):
        simulate(events=1, start="yesterday")
