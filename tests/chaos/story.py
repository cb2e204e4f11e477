"""What the shoppers of an episode do, without end: pure, from a seed.

Duplicates, late and disordered events, erasures and bad records are among the good ones; now and then event time leaps
past `expire_after`, so that users who were silent start afresh or are swept.
"""

import json
import random
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

from tests.integration import stories
from tests.integration.verdict import EXPECT

Hot = Literal["no", "user", "partition"]

START_MS: Final = 1_577_836_800_000  # 2020: many leaps fit in before today, and an event may not be ahead of today
LEAP_MS: Final = 36 * 86_400_000
HOT_USER_SHARE: Final = 0.3
HOT_PARTITION_SHARE: Final = 0.8

_EVENTS_PER_LEAP: Final = 2500
_USERS_PER_PARTITION: Final = 40
_TYPES: Final = (
    "page_view",
    "view_item",
    "view_item",
    "select_item",
    "add_to_cart",
    "search",
    "purchase",
    "unheard_of",
)


class Outgoing(NamedTuple):
    """One record and the partition it goes to. A header `send` will tell it from every other."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def story(rng: random.Random, *, partitions: int, hot: Hot) -> Iterator[Outgoing]:
    """Endless."""
    now_ms = START_MS
    recent: deque[tuple[Outgoing, dict[str, Any]]] = deque(maxlen=60)
    number = 0
    while True:
        number += 1
        now_ms += rng.randrange(0, 2500)
        if rng.random() < 1 / _EVENTS_PER_LEAP:
            now_ms += LEAP_MS
        chance = rng.random()
        if chance < 0.03 and recent:
            yield rng.choice(recent)[0]  # again
            continue
        if chance < 0.04:
            yield poison(rng, partitions)
            continue
        if chance < 0.06 and recent:
            late = rng.choice(recent)[1]
            body = late | {"event_id": f"late-{number}", "event_time": late["event_time"] - 11 * stories.MINUTE_MS}
        else:
            body = _event(rng, number, now_ms, user=_user(rng, partitions, hot))
            if chance < 0.16:
                body["event_time"] -= rng.randrange(9 * stories.MINUTE_MS)
            elif chance < 0.168:
                body = {name: body[name] for name in ("event_id", "user_id", "event_time")} | {"type": "user.erase"}
        sent = _outgoing(body)
        recent.append((sent, body))
        yield sent


def poison(rng: random.Random, partitions: int) -> Outgoing:
    """One record that no worker may accept."""
    key, value, headers = rng.choice(list(stories.bad("poison")))
    return Outgoing(rng.randrange(partitions), key, value, headers)


def oversized(rng: random.Random, partitions: int) -> Iterator[Outgoing]:
    """Records beyond every bound: of an event, of a fetch, and of what other topics take, having come packed."""
    for size in (70_000, 900_000, 6_000_000, 20_000_000):
        value = json.dumps({"event_id": "x", "user_id": "giant", "page": "/" * size}).encode()
        headers = {EXPECT: b"too_large"}
        yield Outgoing(rng.randrange(partitions), b"giant", value, headers)


def _user(rng: random.Random, partitions: int, hot: Hot) -> str:
    """A user's name says the partition: the key decides, as with any partitioner, but a test can heat one."""
    if hot == "user" and rng.random() < HOT_USER_SHARE:
        return "0:hot"
    partition = 0 if hot == "partition" and rng.random() < HOT_PARTITION_SHARE else rng.randrange(partitions)
    return f"{partition}:{rng.randrange(_USERS_PER_PARTITION)}"


def _event(rng: random.Random, number: int, time_ms: int, *, user: str) -> dict[str, Any]:
    item = rng.randrange(500)
    return {
        "event_id": f"e{number}",
        "user_id": user,
        "event_time": time_ms,
        "type": rng.choice(_TYPES),
        "session_id": f"s{time_ms // 1_800_000}",
        "items": [{"item_id": f"i{item}", "item_category": f"c{item % 20}", "price": item / 4}],
    }


def _outgoing(body: dict[str, Any]) -> Outgoing:
    user = body["user_id"]
    return Outgoing(int(user.partition(":")[0]), user.encode(), json.dumps(body).encode(), {})
