"""The JSON Schemas, their golden examples and the code's types say the same."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from worker import events, facts, scores, window
from worker.errors import Invalid

SCHEMAS = Path(__file__).parents[2] / "schemas"
EVENT = "clickstream.events.v1"
SCORE = "intent.scores.v1"
WORDS = {"title", "description", "$defs", "$schema", "$id"}
LATER = {"intent_percentile"}
"""Fields that came to version 1 when it had readers: optional for ever."""
BEYOND = {
    "time-without-offset",  # what `format` says of these three is up to the validator
    "time-as-text-before-1970",
    "time-in-a-leap-second",
    "quantity-as-fraction",  # to JSON Schema 1.0 is an integer
    "time-with-exponent",
}
"""What a schema cannot refuse, and the code does: the description says so."""
NOW_MS = 1_700_000_000_000


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return loaded


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name), format_checker=FormatChecker())


def examples(name: str, kind: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((SCHEMAS / "examples" / name / kind).glob("*.json"))]


def decode_event(value: bytes) -> events.Event:
    user = json.loads(value)["user_id"].encode() if b"user_id" in value and value[:1] == b"{" else b""
    return events.decode(value, key=user, timestamp_ms=NOW_MS)


@pytest.mark.parametrize("name", [EVENT, SCORE])
def test_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("path", examples(EVENT, "valid"))
def test_valid_events_are_valid_for_schema_and_code(path: Path) -> None:
    validator(EVENT).validate(json.loads(path.read_bytes()))
    event = decode_event(path.read_bytes())
    again = events.decode(events.encode(event), key=event.user_id.encode(), timestamp_ms=NOW_MS)
    assert again == event
    validator(EVENT).validate(json.loads(events.encode(event)))


@pytest.mark.parametrize("path", examples(EVENT, "invalid"))
def test_invalid_events_are_invalid_for_schema_and_code(path: Path) -> None:
    if path.stem not in BEYOND:
        assert not validator(EVENT).is_valid(json.loads(path.read_bytes()))
    with pytest.raises(Invalid) as caught:
        decode_event(path.read_bytes())
    assert caught.value.reason == "schema"


@pytest.mark.parametrize("path", examples(SCORE, "valid"))
def test_valid_scores_are_valid_for_schema_and_readers(path: Path) -> None:
    validator(SCORE).validate(json.loads(path.read_bytes()))
    scores.decode(path.read_bytes())


@pytest.mark.parametrize("path", examples(SCORE, "invalid"))
def test_invalid_scores_are_invalid_for_the_schema(path: Path) -> None:
    assert not validator(SCORE).is_valid(json.loads(path.read_bytes()))


def resolved(part: Any, defs: dict[str, Any]) -> Any:
    """A schema's meaning: references in place, words left out."""
    if isinstance(part, list | tuple):
        return [resolved(entry, defs) for entry in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return resolved(defs[part["$ref"].rpartition("/")[2]], defs)
    kept = {name: entry for name, entry in part.items() if name not in WORDS and (name, entry) != ("required", [])}
    return {name: resolved(entry, defs) for name, entry in kept.items()}


def test_the_event_schema_is_the_event_type() -> None:
    written, generated = schema(EVENT), msgspec.json.schema(events.Event)
    assert resolved(written, written["$defs"]) == resolved(generated, generated["$defs"])


def test_the_event_schema_names_each_type_that_the_model_knows() -> None:
    described = schema(EVENT)["properties"]["type"]["description"]
    assert set(re.findall(r"[a-z_]+(?:\.[a-z]+)?", described)) >= {*events.KINDS, events.ERASE}


def names(part: Any) -> Any:
    """Fields and whether they are required, at every depth."""
    if "anyOf" in part:
        return names(next(entry for entry in part["anyOf"] if entry.get("type") != "null"))
    if part.get("type") == "array":
        return [names(part["items"])]
    if part.get("type") == "object":
        return {name: names(entry) for name, entry in sorted(part["properties"].items())}
    return part["type"]


@pytest.mark.parametrize("ranks", [None, (0.812, 0.874, 1.0)], ids=["without a reference", "with one"])
def test_what_is_written_is_valid_and_has_percentiles_only_of_a_reference(ranks: tuple[float, ...] | None) -> None:
    event = decode_event((SCHEMAS / "examples" / EVENT / "valid" / "everything.json").read_bytes())
    after = window.fold(None, facts.of(event), rules=window.Rules()).window
    model = scores.Model("shop", "1")
    rating = scores.Rating(
        scores.Intent(0.1, 0.2, 0.3),
        scores.Risk(0.5, ("burst",)),
        (scores.Reason("cart_added", 0.5),),
        model,
        msgspec.UNSET if ranks is None else scores.Percentile(*ranks),
    )
    at = scores.rfc3339(NOW_MS)
    value = scores.encode(event, after, rating, topic="t", partition=0, offset=7, scored_at=at)
    validator(SCORE).validate(json.loads(value))
    read = scores.decode(value)
    if ranks is None:
        assert b"percentile" not in value
        assert read.intent_percentile is msgspec.UNSET
    else:
        assert read.intent_percentile == scores.Percentile(*ranks)
    assert json.loads(msgspec.json.encode(read)) == json.loads(value)  # a reader that passes it on


def test_the_score_schema_has_the_fields_of_the_score_type() -> None:
    written, generated = schema(SCORE), msgspec.json.schema(scores.Score)
    assert names(written) == names(resolved(generated, generated["$defs"]))
    assert set(written["required"]) == set(written["properties"]) - LATER


def gone(record: Any, part: Any, *, among: str) -> list[str]:
    """Fields of a record, at every depth, that are not among a schema's `properties`, or its `required` ones."""
    if isinstance(record, list):
        return [name for entry in record for name in gone(entry, part["items"], among=among)]
    if not isinstance(record, dict):
        return []
    part = next((entry for entry in part.get("anyOf", []) if entry.get("type") == "object"), part)
    missing = [name for name in record if name not in part[among]]
    kept = record.keys() - missing
    return missing + [name for field in kept for name in gone(record[field], part["properties"][field], among=among)]


@pytest.mark.parametrize(
    ("name", "example", "among"), [(EVENT, "everything", "properties"), (SCORE, "two-events", "required")]
)
def test_no_field_of_the_first_version_is_ever_taken_away(name: str, example: str, among: str) -> None:
    """The examples have every field that there was at first: producers still send them, and readers need a score's."""
    first = json.loads((SCHEMAS / "examples" / name / "valid" / f"{example}.json").read_text())
    assert gone(first, resolved(schema(name), schema(name).get("$defs", {})), among=among) == []


@pytest.mark.parametrize("path", examples(SCORE, "valid"))
def test_readers_of_today_read_scores_of_tomorrow(path: Path) -> None:
    """FULL_TRANSITIVE evolution only ever adds optional fields."""
    later = json.loads(path.read_bytes()) | {"intent_interval": {"purchase_24h": [0.1, 0.3]}}
    later["window"]["sessions"] = 3
    assert scores.decode(json.dumps(later).encode()) == scores.decode(path.read_bytes())
    validator(SCORE).validate(later)
