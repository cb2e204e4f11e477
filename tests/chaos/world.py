"""What an episode's faults may touch: brokers, topics, workers, traffic and readers, together while it runs.

Owns the readers' record of what was published, over the lives of a topic that is deleted and made again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.chaos import changelog
from tests.chaos.admin import Admin
from tests.chaos.history import Poll
from tests.chaos.readers import Follower
from tests.chaos.traffic import SEND, Traffic
from tests.chaos.workers import Workers
from tests.integration.deployment import Read, read_all
from worker.kafka.broker import EmbeddedBroker
from worker.settings import Settings

DRAIN_S: Final = 90.0
_POLL_S: Final = 0.05
_ISOLATIONS: Final = ("read_committed", "read_uncommitted")


class Broken(Exception):
    """Something that is promised did not hold while a fault was injected."""


@dataclass(frozen=True, slots=True)
class Life:
    """All that one life of the scores' topic held at its end."""

    committed: list[Read]
    uncommitted: list[Read]


class Published:
    """Follows the scores' topic, as readers of committed and of uncommitted records see it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._followers: list[list[Follower]] = []
        self._lives: list[Life] = []
        self.arrivals: list[tuple[float, int, int]] = []
        """When a committed score came, and its event's partition and offset."""
        self._open()

    def _open(self) -> None:
        self._followers.append(
            [
                Follower(
                    self._settings.kafka.bootstrap_servers,
                    self._settings.topics.scores,
                    name=isolation,
                    isolation=isolation,
                    partitions=self._settings.topics.partitions,
                    identify=identity,
                    heard=self._arrived if isolation == "read_committed" else lambda _, __: None,
                    incarnation=len(self._lives),
                )
                for isolation in _ISOLATIONS
            ]
        )

    def _arrived(self, record: Read, at_s: float) -> None:
        _, partition, offset = record.headers["ce_id"].decode().rsplit("-", 2)
        self.arrivals.append((at_s, int(partition), int(offset)))

    def end_life(self) -> None:
        """The topic is about to be deleted, or all is done: nobody writes to it. Keeps all that it holds."""
        servers, topic = self._settings.kafka.bootstrap_servers, self._settings.topics.scores
        life = Life(*(read_all(servers, topic, isolation=isolation) for isolation in _ISOLATIONS))
        for follower, held in zip(self._followers[-1], (life.committed, life.uncommitted), strict=True):
            ends = {record.partition: record.offset for record in held}
            if not await_(lambda f=follower, e=ends: all(f.furthest[p] >= o for p, o in e.items()), DRAIN_S):  # type: ignore[misc]  # bound per follower
                follower.errors.append(f"{follower.name} got up to {follower.furthest} and not to the end, {ends}")
            follower.close()
        self._lives.append(life)

    def begin_life(self) -> None:
        """The topic was made again."""
        self._open()

    @property
    def lives(self) -> list[Life]:
        return self._lives

    def polls(self, isolation: str) -> list[Poll]:
        """Of the follower of that isolation level, over all lives of the topic."""
        at = _ISOLATIONS.index(isolation)
        return [poll for followers in self._followers for poll in followers[at].polls]

    @property
    def errors(self) -> list[str]:
        return [error for followers in self._followers for follower in followers for error in follower.errors]

    def close(self) -> None:
        for followers in self._followers:
            for follower in followers:
                follower.close()


@dataclass
class World:
    """One episode's."""

    settings: Settings
    broker: EmbeddedBroker
    workers: Workers
    traffic: Traffic
    published: Published = field(init=False)
    source: Follower = field(init=False)
    changelog: Follower = field(init=False)
    admin: Admin = field(init=False)
    brokers_lock: threading.Lock = field(default_factory=threading.Lock)
    """One fault of brokers at a time: two at once may take more nodes than the cluster can spare."""

    def __post_init__(self) -> None:
        settings = self.settings
        servers, partitions = settings.kafka.bootstrap_servers, settings.topics.partitions
        self._marks = [-1] * partitions
        self.admin = Admin(settings)
        self.published = Published(settings)
        self.source = Follower(
            servers,
            settings.topics.events,
            name="source",
            isolation="read_uncommitted",
            partitions=partitions,
            identify=lambda record: record.headers[SEND].decode(),
        )
        self.changelog = Follower(
            servers,
            settings.changelog,
            name="changelog",
            isolation="read_committed",
            partitions=partitions,
            identify=lambda record: f"{record.partition}/{record.offset}",
            heard=self._mark,
        )

    def _mark(self, record: Read, _: float) -> None:
        _note(record, self._marks)

    @property
    def lag(self) -> int:
        """Acknowledged source records that no committed watermark covers."""
        ends = self._ends()
        return sum(max(0, end - mark) for end, mark in zip(ends, self._marks, strict=True))

    def _ends(self) -> list[int]:
        ends = [-1] * self.settings.topics.partitions
        for sent in self.traffic.sent:
            entry = sent.send.entry
            ends[int(entry.partition)] = max(ends[int(entry.partition)], entry.offset)
        return ends

    def await_drained(self, within_s: float = DRAIN_S) -> bool:
        """Whether everything sent so far was done in time."""
        ends = self._ends()
        return await_(lambda: all(mark >= end for mark, end in zip(self._marks, ends, strict=True)), within_s)

    def progress(self) -> str:
        """Where each partition stands, for a finding: is it a worker that stands still, or only one of our readers?"""
        anew = [-1] * len(self._marks)
        for record in read_all(self.settings.kafka.bootstrap_servers, self.settings.changelog):
            _note(record, anew)
        return (
            f"sent up to {self._ends()}, the follower of the changelog saw watermarks up to {self._marks} and read up "
            f"to offsets {self.changelog.furthest}, a new reader sees watermarks {anew}; the follower's errors: "
            f"{self.changelog.errors}"
        )

    def close(self) -> None:
        """Whatever still runs."""
        self.traffic.stop()
        self.workers.close()
        for follower in (self.source, self.changelog, self.published):
            follower.close()


def _note(record: Read, marks: list[int]) -> None:
    """Where it is one, the partition's watermark from now on."""
    if record.key == changelog.WATERMARK and record.value is not None:
        marks[record.partition] = changelog.watermark(record.value)[0]


def await_(condition: Callable[[], bool], within_s: float) -> bool:
    """Polls; whether it came to hold in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def identity(record: Read) -> str:
    """The score that a record is one writing of."""
    return record.headers["ce_id"].decode()
