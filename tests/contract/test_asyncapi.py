"""`schemas/asyncapi.yaml` says of the topics what the code declares, and of the records what the code writes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from worker import deadletter, scores, watermark, window
from worker.dlq.redrive import FROM_HEADER
from worker.fold import fold
from worker.kafka import topics
from worker.scores import Headers, Intent, Model, Rating, Reason, Risk
from worker.settings import Settings
from worker.stream import output
from worker.stream.output import OutRecord
from worker.watermark import Watermark

ROOT = Path(__file__).parents[2]
FILE = ROOT / "schemas" / "asyncapi.yaml"
EVENT = ROOT / "schemas" / "examples" / "clickstream.events.v1" / "valid" / "everything.json"
NOW_MS = 1_700_000_000_000
AT = scores.rfc3339(NOW_MS)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def followed(document: dict[str, Any], reference: str) -> Any:
    """What a reference names: a place in the document, or a file beside it."""
    if not reference.startswith("#/"):
        return json.loads((FILE.parent / reference).read_text())
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "$ref")
        part = list(part.values())
    if isinstance(part, list):
        for entry in part:
            yield from references(entry)


def whole(document: dict[str, Any], part: Any) -> Any:
    """With the document's own references in place; those inside of a JSON Schema's file stay."""
    if isinstance(part, list):
        return [whole(document, entry) for entry in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        found = followed(document, part["$ref"])
        return whole(document, found) if part["$ref"].startswith("#/") else found
    return {name: whole(document, entry) for name, entry in part.items()}


def message(document: dict[str, Any], name: str) -> Any:
    return whole(document, document["components"]["messages"][name])


def is_valid(schema: dict[str, Any], value: Any) -> bool:
    return Draft202012Validator(schema, format_checker=FormatChecker()).is_valid(value)


def told(headers: Headers) -> dict[str, str]:
    return {name: (text or b"").decode() for name, text in headers}


def test_it_is_tidy(document: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(ROOT / "deploy" / ".yamllint.yaml"), str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert document["asyncapi"] == "3.0.0"
    for reference in references(document):
        followed(document, reference)


def test_the_topics_are_those_that_are_declared(document: dict[str, Any]) -> None:
    settings = Settings()
    named = {name: getattr(settings.topics, name) for name in ("events", "scores", "latest", "dead_letters", "shadow")}
    named["changelog"] = settings.changelog
    assert {name: channel["address"] for name, channel in document["channels"].items()} == named
    described = {}
    for channel in document["channels"].values():
        kafka = channel["bindings"]["kafka"]
        config = {
            name: ",".join(value) if isinstance(value, list) else str(value)
            for name, value in kafka["topicConfiguration"].items()
        }
        described[channel["address"]] = topics.Topic(channel["address"], kafka["partitions"], kafka["replicas"], config)
    assert described == {topic.name: topic for topic in topics.declared(settings)}
    assert document["servers"]["development"]["host"] == settings.kafka.bootstrap_servers
    group = document["operations"]["read_events"]["bindings"]["kafka"]["groupId"]
    assert group["const"] == settings.worker.application_id


def test_each_message_is_of_its_channel_and_each_channel_is_used(document: dict[str, Any]) -> None:
    used = set()
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        used.add(channel)
        assert {entry["$ref"].rpartition("/messages/")[0] for entry in operation["messages"]} == {channel}
    assert used == {f"#/channels/{name}" for name in document["channels"]}
    mentioned = {entry["$ref"] for channel in document["channels"].values() for entry in channel["messages"].values()}
    assert mentioned == {f"#/components/messages/{name}" for name in document["components"]["messages"]}


@dataclass(frozen=True)
class Source:
    """A record of the events topic."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = NOW_MS
    headers: Headers = ()


@pytest.fixture(scope="module")
def written() -> output.Rendered:
    """What the worker makes of an event, a bad record, a late one and an erasure."""
    event = json.loads(EVENT.read_text()) | {"event_time": NOW_MS}
    user = event["user_id"].encode()
    ann = {"event_id": "1", "user_id": "ann", "event_time": NOW_MS, "type": "user.erase"}
    batch = fold(
        [
            Source(1, user, json.dumps(event).encode()),
            Source(2, None, b"{"),
            Source(3, user, json.dumps(event | {"event_id": "2", "event_time": NOW_MS - 3_600_000}).encode()),
            Source(4, b"ann", json.dumps(ann).encode()),
        ],
        windows=lambda _: None,
        start=Watermark(),
        rules=window.Rules(),
        mode="every",
    )
    rating = Rating(Intent(0.1, 0.2, 0.3), Risk(0.5, ("burst",)), (Reason("cart_added", 0.5),), Model("shop", "1"))
    return output.render(batch, [rating], topic="t", partition=0, application="intent", scored_at=AT)


def of_json(record: OutRecord) -> Any:
    return None if record.value is None else json.loads(record.value)


def test_scores_are_as_described(document: dict[str, Any], written: output.Rendered) -> None:
    described, gone = message(document, "score"), message(document, "gone")
    (score,) = written.scores
    kept, erased = written.latest
    assert erased.key == b"ann"
    for record in (score, kept):
        headers = told(record.headers)
        assert is_valid(described["headers"], headers)
        assert headers.keys() == document["components"]["schemas"]["cloud_event"]["properties"].keys()
        assert not is_valid(described["headers"], headers | {"ce_type": scores.SHADOW_TYPE})
        assert is_valid(described["payload"]["schema"], of_json(record))
    assert is_valid(gone["headers"], told(erased.headers))
    assert is_valid(gone["payload"], of_json(erased))
    assert not is_valid(gone["payload"], of_json(score))


def test_shadow_scores_are_as_described(document: dict[str, Any]) -> None:
    described = message(document, "shadow_score")["headers"]
    headers = told(scores.headers("t-0-1", source="intent/shadow", scored_at=AT, type_=scores.SHADOW_TYPE))
    assert is_valid(described, headers)
    assert not is_valid(described, headers | {"ce_source": "intent"})
    assert not is_valid(described, headers | {"ce_type": scores.EVENT_TYPE})


def test_dead_letters_are_as_described(document: dict[str, Any], written: output.Rendered) -> None:
    described = message(document, "dead_letter")["headers"]
    assert [told(letter.headers)[f"{deadletter.PREFIX}exception.class.name"] for letter in written.dead_letters] == [
        "json",
        "late",
    ]
    for letter in written.dead_letters:
        headers = told(letter.headers)
        assert is_valid(described, headers)
        assert sorted(headers) == sorted(described["required"])
        assert not is_valid(described, {name: text for name, text in headers.items() if not name.endswith("topic")})
        reason = f"{deadletter.PREFIX}exception.class.name"
        assert headers[reason] in described["properties"][reason]["examples"]
        assert is_valid(described, headers | {reason: "one that came later"})
    assert described["properties"].keys() - set(described["required"]) == {deadletter.CUT}
    assert message(document, "event")["headers"]["properties"].keys() == {FROM_HEADER}


def test_the_state_is_as_described(document: dict[str, Any], written: output.Rendered) -> None:
    kept, erased, mark = written.changelog
    assert [kept.headers, erased.headers, mark.headers] == [[], [], []]
    assert erased.value is None
    described = message(document, "watermark")
    assert mark.key == watermark.KEY == bytes.fromhex(described["bindings"]["kafka"]["key"]["x-hex"])
    assert mark.value is not None
    assert described["payload"]["description"].startswith(f"{len(mark.value)} bytes")
    assert message(document, "window")["payload"]["description"].startswith(f"Version {window.VERSION} ")
