"""`intent dlq` on a real broker."""

import base64
import json
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from tests.conftest import MakeSettings
from tests.integration.deployment import read_all, variables
from tests.integration.test_topics import alter, settled
from worker import deadletter, events
from worker.dlq.commands import dlq_app
from worker.errors import IntentError
from worker.events import Event
from worker.scores import Headers
from worker.settings import Settings

pytestmark = pytest.mark.broker

TIME_MS = 1_700_000_000_000
GOOD = events.encode(Event(event_id="e1", user_id="ann", event_time=TIME_MS, type="view_item"))
LETTERS = [
    ("json", b"ann", b"{\x1b[2J"),
    ("future", b"ann", GOOD),  # too far ahead when it came; no longer
    ("late", b"ann", GOOD),
    ("wrong_key", b"bob", GOOD),
]


def put_letters(settings: Settings) -> None:
    """All in partition 2, from offset 0 on, as the worker writes them."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for offset, (reason, key, value) in enumerate(LETTERS):
        headers = deadletter.headers(
            [("trace", b"kept")],
            topic=settings.topics.events,
            partition=2,
            offset=40 + offset,
            timestamp_ms=TIME_MS + offset,
            stage="decode",
            reason=reason,
            message=f"it was {reason}",
        )
        producer.produce(
            settings.topics.dead_letters, value, key, partition=2, headers=list(headers), timestamp=TIME_MS + offset
        )
    assert producer.flush(10) == 0


@pytest.fixture
def deployment(settings: MakeSettings) -> Settings:
    """The letters were written at `TIME_MS` and later, so the topic takes the producer's word for it."""
    made = settings()
    alter(made, made.topics.dead_letters, {"message.timestamp.type": "CreateTime"})
    assert settled(made, 1)
    put_letters(made)
    return made


def called(deployment: Settings, *arguments: str) -> Result:
    return CliRunner(env=dict(variables(deployment))).invoke(dlq_app, list(arguments))


def answered(deployment: Settings, *arguments: str) -> dict[str, Any]:
    done = called(deployment, *arguments, "--json")
    assert done.exit_code == 0, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_list(deployment: Settings) -> None:
    answer = answered(deployment, "list")
    assert answer["count"] == 4
    assert answer["reasons"] == {"json": 1, "future": 1, "late": 1, "wrong_key": 1}
    first = answer["letters"][0]
    assert first["id"] == "2:0"
    assert first["source"] == {"topic": deployment.topics.events, "partition": 2, "offset": 40}
    assert (first["reason"], first["message"], first["value_bytes"]) == ("json", "it was json", 5)
    assert "ann" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        pytest.param(("--reason", "late", "--reason", "json"), ["json", "late"], id="by reason"),
        pytest.param(("--from", "2:1", "--to", "2:3"), ["future", "late"], id="by offset"),
        pytest.param(("--from", "2023-11-14T22:13:20.002Z"), ["late", "wrong_key"], id="by time"),
        pytest.param(("--limit", "1"), ["wrong_key"], id="the newest"),
    ],
)
def test_list_a_part(deployment: Settings, options: tuple[str, ...], reasons: list[str]) -> None:
    assert [letter["reason"] for letter in answered(deployment, "list", *options)["letters"]] == reasons


def test_a_reason_that_no_letter_has_is_told_with_those_there_are(deployment: Settings) -> None:
    done = called(deployment, "list", "--reason", "jsn", "--to", "2:2")
    assert (done.exit_code, done.output.strip()) == (
        0,
        "no dead letters in this range with this reason; there are 1 json, 1 future",
    )


def test_show(deployment: Settings) -> None:
    answer = answered(deployment, "show", "2:0")
    assert base64.b64decode(answer["value"]) == b"{\x1b[2J"
    assert [[name, base64.b64decode(content)] for name, content in answer["headers"]] == [["trace", b"kept"]]
    shown = called(deployment, "show", "2:0")
    assert "\x1b[2J" not in shown.output
    assert r"{\x1b[2J" in shown.output


def test_show_what_is_not_there(deployment: Settings) -> None:
    assert isinstance(called(deployment, "show", "2:99").exception, IntentError)
    assert isinstance(called(deployment, "show", "latest").exception, IntentError)


def test_redrive_sends_what_may_do_well_now(deployment: Settings) -> None:
    skipped = {"json": 1, "late": 1, "wrong_key": 1}
    assert answered(deployment, "redrive", "--dry-run") == {"dry_run": True, "sent": 1, "skipped": skipped}
    servers, topic = deployment.kafka.bootstrap_servers, deployment.topics.events
    assert read_all(servers, topic) == []
    assert answered(deployment, "redrive") == {"dry_run": False, "sent": 1, "skipped": skipped}
    (sent,) = read_all(servers, topic)
    assert (sent.partition, sent.key, sent.value) == (2, b"ann", GOOD)
    assert sent.headers == {"trace": b"kept", "intent.redriven-from": f"{deployment.topics.dead_letters}-2-1".encode()}


def test_redrive_by_id_and_force(deployment: Settings) -> None:
    assert answered(deployment, "redrive", "2:0", "2:2") == {
        "dry_run": False,
        "sent": 0,
        "skipped": {"json": 1, "late": 1},
    }
    assert answered(deployment, "redrive", "2:0", "--force")["sent"] == 1
    (sent,) = read_all(deployment.kafka.bootstrap_servers, deployment.topics.events)
    assert sent.value == b"{\x1b[2J"


def write(settings: Settings, own: Headers, *, topic: str) -> None:
    """A letter in partition 0, of a good record with headers of its own, of such a topic."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "message.max.bytes": 2 << 20})
    headers = deadletter.headers(
        own, topic=topic, partition=0, offset=0, timestamp_ms=TIME_MS, stage="decode", reason="future", message=""
    )
    producer.produce(settings.topics.dead_letters, GOOD, b"ann", partition=0, headers=[*headers])
    assert producer.flush(10) == 0


def test_redrive_writes_to_no_topic_that_a_header_names(deployment: Settings) -> None:
    other = deployment.topics.latest
    write(deployment, [], topic=other)
    answer = answered(deployment, "redrive", "0:0", "--force")
    assert (answer["sent"], answer["skipped"]) == (0, {"other_topic": 1})
    assert read_all(deployment.kafka.bootstrap_servers, other) == []


def test_redrive_sends_headers_as_they_came_up_to_what_the_topic_takes(deployment: Settings) -> None:
    """A record of a mebibyte is above what librdkafka sends by itself."""
    own: Headers = [("none", None), ("empty", b""), ("large", bytes(1_020_000))]
    write(deployment, own, topic=deployment.topics.events)
    shown = answered(deployment, "show", "0:0")["headers"]
    assert [(name, None if content is None else base64.b64decode(content)) for name, content in shown] == own
    assert answered(deployment, "redrive", "0:0")["sent"] == 1
    (sent,) = read_all(deployment.kafka.bootstrap_servers, deployment.topics.events)
    assert (sent.headers["empty"], sent.headers["large"]) == (b"", bytes(1_020_000))
    assert "none" not in sent.headers  # a reader of the topic leaves out what has no content


def test_nothing_to_list(settings: MakeSettings) -> None:
    done = called(settings(), "list")
    assert done.exit_code == 0
    assert "no dead letters in this range" in done.output
