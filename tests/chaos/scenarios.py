"""Small stories with one fault each, at a moment that is planted and not awaited, and what the oracle says of the end.

A mutant of the core must be given away by the fault; the worker as it is must come through the same.
"""

import shutil
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.chaos.audit import Findings
from tests.chaos.outcome import examine
from tests.integration.deployment import ROOT, Worker, publish, until
from tests.integration.stories import Record, bad, event
from worker import config
from worker.kafka import clients, topics
from worker.ports import free_port
from worker.settings import Settings

START_MS = 1_760_000_000_000
BATCH_EVENTS = 50
SESSION_S = 2


def story(first: int, count: int) -> Iterator[Record]:
    """Events `first` to `first + count` of 20 users; among every 50 of them are some that come twice, come late, are
    bad, or erase their user.
    """
    wrong = list(bad("trouble"))
    for number in range(first, first + count):
        user, time_ms = f"user-{number % 20}", START_MS + number * 1000
        now = event(user, number, time_ms)
        yield now
        match number % 25:
            case 7:
                yield now
            case 12:
                yield wrong[number // 25 % len(wrong)]
            case 17:
                yield event(user, -number, time_ms - 3_600_000)
            case 20:
                yield event(user, 10**6 + number, time_ms, type="user.erase")


@dataclass
class Stage:
    """Topics of their own, and the workers of one play: all of them the same mutant, or none."""

    servers: str
    folder: Path
    mutant: str | None = None
    partitions: int = 1
    workers: list[Worker] = field(default_factory=list)
    ports: defaultdict[str, int] = field(default_factory=lambda: defaultdict(free_port))
    told: int = 0
    published: int = 0

    def __post_init__(self) -> None:
        self._mark = uuid.uuid4().hex[:8]
        self.folder.mkdir(parents=True, exist_ok=True)

    def settings(self, name: str) -> Settings:
        return config.load(
            {
                "kafka": {"bootstrap_servers": self.servers},
                "topics": {"partitions": self.partitions}
                | {name: f"{self._mark}.{name}" for name in ("events", "scores", "latest", "dead_letters", "shadow")},
                "worker": {
                    "application_id": f"play-{self._mark}",
                    "data_dir": self.folder / name,
                    "web_port": self.ports[name],
                    "instance_id": name,
                    "max_batch_events": BATCH_EVENTS,
                    "session_timeout_s": SESSION_S,
                },
            }
        )

    def worker(self, name: str, *moments: str) -> Worker:
        """Not started. Workers of one name share their folder and their membership."""
        settings = self.settings(name)
        mutant = ["--mutant", self.mutant] if self.mutant else []
        planted = [f"--at={moment}" for moment in moments]
        worker = Worker(
            settings,
            self.folder / f"{name}.log",
            command=(sys.executable, "-m", "tests.chaos.planted", *mutant, *planted),
            environment={"PYTHONPATH": str(ROOT)},
        )
        self.workers.append(worker)
        return worker

    def publish(self, count: int) -> None:
        """The next events of the story."""
        settings = self.settings("publisher")
        topics.create(settings)
        self.published += publish(self.servers, settings.topics.events, story(self.told, count))
        self.told += count

    def drained(self, *workers: Worker) -> bool:
        """All that is published is done by these, together."""
        marks: dict[tuple[str, ...], float] = {}
        for worker in workers:
            marks |= worker.metric("intent_watermark_offset")
        return sum(marks.values()) + len(marks) == self.published

    def await_drained(self, *workers: Worker) -> None:
        until(lambda: self.drained(*workers), workers[-1], "all events are done")

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def findings(self) -> Findings:
        """What the oracle finds wrong with all that readers see."""
        verdict, found = examine(self.settings("reader"))
        assert {"scored", "duplicate", "late", "erased", "dead"} <= verdict.counts.keys()
        return found


def ended(worker: Worker) -> bool:
    assert worker.process is not None
    return worker.process.poll() is not None


def stopped(worker: Worker) -> psutil.Process | None:
    """The process, if it has come to its moment and sleeps."""
    assert worker.process is not None
    process = psutil.Process(worker.process.pid)
    return process if process.status() == psutil.STATUS_STOPPED else None


def quiet(stage: Stage) -> None:
    """Nothing happens."""
    stage.publish(200)
    worker = stage.worker("a")
    worker.start(wait=False)
    stage.await_drained(worker)


def stopped_well(stage: Stage) -> None:
    """SIGTERM once all is done, and a start."""
    stage.publish(200)
    worker, successor = stage.worker("a"), stage.worker("a")
    worker.start(wait=False)
    stage.await_drained(worker)
    worker.stop()
    stage.publish(100)
    successor.start(wait=False)
    stage.await_drained(successor)


def killed(stage: Stage, moment: str, *, lose_folder: bool = False) -> None:
    stage.publish(300)
    worker, successor = stage.worker("a", f"{moment}=kill"), stage.worker("a")
    worker.start(wait=False)
    worker.await_end()
    if lose_folder:
        shutil.rmtree(worker.settings.worker.data_dir)
    successor.start(wait=False)
    stage.await_drained(successor)


def killed_before_commit(stage: Stage) -> None:
    """SIGKILL with a whole batch acknowledged and not committed."""
    killed(stage, "commit:3")


def killed_before_store(stage: Stage) -> None:
    """SIGKILL with a batch committed and not in RocksDB."""
    killed(stage, "committed:3")


def lost_folder(stage: Stage) -> None:
    """SIGKILL with a transaction open, and the state folder is gone."""
    killed(stage, "commit:3", lose_folder=True)


def zombie(stage: Stage) -> None:
    """A worker is paused before a transaction until another has its partition, and wakes before that one's first."""
    stage.publish(300)
    former = stage.worker("a", "publish:3=stop", "committed:3=kill")
    former.start(wait=False)
    until(lambda: stopped(former) is not None, former, "the former owner is paused")
    heir = stage.worker("b", "publish:1=stop")
    heir.start(wait=False)
    until(lambda: stopped(heir) is not None, heir, "its successor is about to publish")
    for sleeper in (former, heir):
        process = stopped(sleeper)
        assert process is not None
        process.resume()
        if sleeper is former:
            former.await_end()  # committed and killed, or fenced
    stage.await_drained(heir)


def scorer_error(stage: Stage) -> None:
    """The scorer raises once; a supervisor restarts the worker if it ends."""
    stage.publish(300)
    worker, successor = stage.worker("a", "score:3=raise"), stage.worker("a")
    worker.start(wait=False)
    until(lambda: ended(worker) or stage.drained(worker), successor, "the error ends the worker, or passes")
    if ended(worker):
        successor.start(wait=False)
        stage.await_drained(successor)


def there_and_back(stage: Stage) -> None:
    """A partition goes to another worker, is worked on there, and comes back."""
    stage.partitions = 2
    stage.publish(100)
    home, guest = stage.worker("a"), stage.worker("b")
    home.start(wait=False)
    stage.await_drained(home)
    guest.start(wait=False)
    until(lambda: bool(guest.metric("intent_watermark_offset")), guest, "it has a partition")
    stage.publish(100)
    stage.await_drained(home, guest)
    guest.stop()
    stage.publish(100)
    stage.await_drained(home)


def group_offsets_moved(stage: Stage) -> None:
    """Somebody sets the group's offsets ahead while the worker is away."""
    stage.publish(100)
    worker = stage.worker("a")
    worker.start(wait=False)
    stage.await_drained(worker)
    worker.kill()
    ahead = stage.published + 50
    stage.publish(100)
    settings = worker.settings
    group = settings.worker.application_id
    admin = clients.admin(settings.kafka)
    until(lambda: _empty(admin, group), stage.worker("a"), "the group has lost its member")
    moved = ConsumerGroupTopicPartitions(group, [TopicPartition(settings.topics.events, 0, ahead)])
    admin.alter_consumer_group_offsets([moved])[group].result(10)
    worker.start(wait=False)
    stage.await_drained(worker)


def _empty(admin: AdminClient, group: str) -> bool:
    state = admin.describe_consumer_groups([group])[group].result(10).state
    return bool(state == ConsumerGroupState.EMPTY)


SCENARIOS: Mapping[str, Callable[[Stage], None]] = {
    play.__name__: play
    for play in (
        quiet,
        stopped_well,
        killed_before_commit,
        killed_before_store,
        lost_folder,
        zombie,
        scorer_error,
        there_and_back,
        group_offsets_moved,
    )
}


def play(scenario: str, stage: Stage) -> Findings:
    """Plays it to the end; what the oracle finds wrong then."""
    try:
        SCENARIOS[scenario](stage)
        return stage.findings()
    finally:
        stage.close()
