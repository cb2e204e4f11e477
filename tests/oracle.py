"""An independent answer to "what should have come out": dictionaries and lists, written from the contract's text alone.

Shares no code with `worker`, on purpose: a mistake there must not be repeated here. Slow and plain.
"""

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import Any

import xxhash

DAY_MS = 86_400_000


@dataclass
class User:
    """One user's window: kept events as (time, arrival, id), ids folded so far, newest time."""

    kept: list[tuple[int, int, str]] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)

    @property
    def newest(self) -> int:
        return max(time for time, _, _ in self.kept)


@dataclass
class Partition:
    """The window rule over one partition's records, in offset order."""

    max_lateness_ms: int = 600_000
    expire_after_ms: int = 35 * DAY_MS
    users: dict[str, User] = field(default_factory=dict)
    newest: int | None = None
    arrivals: int = 0

    def read(self, user_id: str, event_id: str, time_ms: int, type_: str = "page_view") -> str:
        """One valid event; says its fate: folded, duplicate, late or erased."""
        self.newest = time_ms if self.newest is None else max(self.newest, time_ms)
        if type_ == "user.erase":
            self.users.pop(user_id, None)
            return "erased"
        user = self.users.get(user_id)
        if user is not None and self.newest - user.newest > self.expire_after_ms:
            user = None
        if user is None:
            user = self.users[user_id] = User()
        if event_id in user.folded[-128:]:
            return "duplicate"
        if user.kept and time_ms < user.newest - self.max_lateness_ms:
            return "late"
        self.arrivals += 1
        user.folded.append(event_id)
        user.kept.append((time_ms, self.arrivals, event_id))
        user.kept.sort(key=lambda entry: entry[:2])
        user.kept = user.kept[-64:]
        user.kept = [entry for entry in user.kept if user.newest - entry[0] <= 30 * DAY_MS]
        return "folded"

    def digest(self, user_id: str) -> str:
        ids = b"".join(xxhash.xxh3_64_digest(id_.encode()) for _, _, id_ in self.users[user_id].kept)
        return str(xxhash.xxh3_64_hexdigest(ids))

    def chance(self, user_id: str) -> float:
        """What `tests.chaos.scorers.DigestEngine` makes of the window's events, as scores are rounded."""
        return round((int(self.digest(user_id), 16) >> 11) / 2**53, 6)

    def expired(self, user_id: str) -> bool:
        """Silent for too long: the window and the latest score may be gone by now, or not yet."""
        assert self.newest is not None
        return self.newest - self.users[user_id].newest > self.expire_after_ms


def hashed(event_id: str) -> int:
    """An event's id as windows keep it."""
    return int(xxhash.xxh3_64_intdigest(event_id.encode()))


def event_time_ms(value: Any) -> int:
    """`event_time` as written in JSON, to ms."""
    if isinstance(value, str):
        moment = dt.datetime.fromisoformat(value)
        return int((moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(microseconds=1)) // 1000
    return int(value)


def parse(value: bytes) -> dict[str, Any]:
    """A value known to be good, as a dictionary."""
    parsed: dict[str, Any] = json.loads(value[5:] if value[:1] == b"\0" else value)
    return parsed
