"""What is asked again, and for how long."""

import time

import pytest
from confluent_kafka import KafkaError, KafkaException

from worker.errors import IntentError, SettingError
from worker.kafka import topics
from worker.settings import Kafka, Settings, Topics, Worker

GONE = KafkaException(KafkaError(KafkaError._TIMED_OUT, "waiting for controller"))
NOT_LISTED = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
REFUSED = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


@pytest.fixture
def settings() -> Settings:
    return Settings.model_construct(
        kafka=Kafka(bootstrap_servers="127.0.0.1:1"),
        topics=Settings.model_fields["topics"].default,
        worker=Worker.model_construct(request_timeout_s=2.0),
    )


@pytest.mark.parametrize(
    "names",
    [{"dead_letters": "clickstream.events.v1"}, {"shadow": "intent.latest.v1"}, {"scores": "intent-windows-changelog"}],
    ids=str,
)
def test_a_topic_is_one_of_them(names: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=f"2 of the topics are '{next(iter(names.values()))}'"):
        topics.declared(Settings(topics=Topics(**names)))


def answers(monkeypatch: pytest.MonkeyPatch, *answered: str | KafkaException) -> list[str | KafkaException]:
    """What is left of these answers, of which the last goes on."""
    left = list(answered)

    def answer(*_: object, **__: object) -> str:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, KafkaException):
            raise now
        return now

    monkeypatch.setattr(topics, "_id", answer)
    return left


def test_a_controller_that_changes_and_a_topic_not_listed_yet_are_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = answers(monkeypatch, GONE, NOT_LISTED, GONE, "a-topic-id")
    assert topics.events_id(settings) == "a-topic-id"
    assert left == ["a-topic-id"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (GONE, r"Kafka at 127.0.0.1:1 .* does not answer \((.*refused.*|waiting for controller)\)"),
        (NOT_LISTED, "the topic clickstream.events.v1 is not there; `intent topics create` makes it"),
    ],
    ids=["no answer", "no topic"],
)
def test_not_for_ever_but_shorter_than_who_asks_would_wait(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, answer: KafkaException, sentence: str
) -> None:
    answers(monkeypatch, answer)
    began_s = time.monotonic()
    with pytest.raises(IntentError, match=sentence):
        topics.events_id(settings)
    assert time.monotonic() - began_s >= 1.8


def test_a_refusal_is_told_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    left = answers(monkeypatch, REFUSED, "a-topic-id")
    with pytest.raises(IntentError, match=r"does not let this user describe the topic clickstream\.events\.v1"):
        topics.events_id(settings)
    assert left == ["a-topic-id"]
