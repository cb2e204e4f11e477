"""Source records for the integration tests: real and simulated shoppers, and trouble mixed in.

A record is (key, value, headers). What is known to be bad says so in a header, so that no check has to decode it.
"""

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

from tests.integration.verdict import EXPECT

Record = tuple[bytes | None, bytes | None, dict[str, bytes]]

MINUTE_MS = 60_000


def event(user: str, number: int, time_ms: int, **fields: Any) -> Record:
    body = {"event_id": f"{user}-{number}", "user_id": user, "event_time": time_ms, "type": "view_item", **fields}
    return user.encode(), json.dumps(body).encode(), {}


def bad(user: str) -> Iterator[Record]:
    """One record of each way to be wrong."""
    good = {"event_id": "x", "user_id": user, "event_time": 1_700_000_000_000, "type": "page_view"}
    key = user.encode()

    def dead(reason: str, value: bytes | None, key: bytes | None = key) -> Record:
        return key, value, {EXPECT: reason.encode(), "trace": b"kept"}

    def changed(**fields: Any) -> bytes:
        return json.dumps(good | fields).encode()

    yield dead("empty", None)
    yield dead("json", b"")
    yield dead("json", b'{"event_id": "x", "user')
    yield dead("json", b"\xff\xfe\x00")
    yield dead("json", b'{"deep":' * 8_000)
    yield dead("schema", b"[]")
    yield dead("schema", changed(event_id=""))
    yield dead("schema", changed(event_time="yesterday"))
    yield dead("schema", changed(event_time="2023-11-14T22:13:20"))
    yield dead("schema", changed(items=[{"item_id": "a", "quantity": 10**16}]))
    yield dead("schema", changed(items=[{"item_id": "a"}] * 51))
    yield dead("schema", json.dumps(good)[:-1].encode() + b', "value": 1e999}')
    yield dead("too_large", changed(page="x" * 70_000))
    yield dead("future", changed(event_time=4_000_000_000_000))
    yield dead("wrong_key", changed(), key=None)
    yield dead("wrong_key", changed(), key=b"someone-else")


def trouble(records: Iterable[Record], *, seed: int) -> Iterator[Record]:
    """The records with duplicates, late and disordered ones, erasures and bad ones among them."""
    rng = random.Random(seed)
    poison: list[Record] = []
    recent: list[Record] = []
    held: list[Record] = []
    for record in records:
        chance = rng.random()
        if chance < 0.03:
            held.append(record)  # comes a few records later than it should
        else:
            yield record
            recent.append(record)
        if len(held) > 5 or (held and rng.random() < 0.2):
            yield held.pop(0)
        if chance > 0.98 and recent:
            yield rng.choice(recent[-50:])
        elif chance > 0.97 and recent:
            yield moved(rng.choice(recent[-50:]), -11 * MINUTE_MS, rng)
        elif chance > 0.96:
            poison = poison or list(bad("trouble"))
            yield poison.pop()
        elif chance > 0.957 and recent:
            yield erasure(rng.choice(recent[-50:]), rng)
    yield from held
    yield from poison


def moved(record: Record, by_ms: int, rng: random.Random) -> Record:
    """The same event at another time and under another id."""
    key, value, _ = record
    body = json.loads(value or b"")
    body["event_id"] = f"moved-{rng.random()}"
    body["event_time"] = millis(body["event_time"]) + by_ms
    return key, json.dumps(body).encode(), {}


def erasure(record: Record, rng: random.Random) -> Record:
    key, value, _ = record
    body = json.loads(value or b"")
    erase = {name: body[name] for name in ("user_id", "event_time")}
    return key, json.dumps(erase | {"event_id": f"erase-{rng.random()}", "type": "user.erase"}).encode(), {}


def millis(time: Any) -> int:
    from tests.oracle import event_time_ms

    return event_time_ms(time)
