"""State lost, damaged, outdated or taken over, on a real broker: what comes out is always what the oracle says."""

import itertools
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import rocksdict
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from tests.integration.conftest import Deploy
from tests.integration.deployment import Topic, Worker, publish, read_all, until
from tests.integration.stories import Record, event
from tests.integration.test_worker import START_MS, check, drained, simulated
from tests.integration.verdict import value
from worker import facts, window
from worker.events import decode
from worker.kafka import topics
from worker.pipeline import SWEEP_SHARE
from worker.ports import free_port
from worker.stream.rocksdb import options
from worker.watermark import KEY, Watermark

pytestmark = pytest.mark.broker

DAY_MS = 86_400_000


def recovered(worker: Worker) -> float:
    """Changelog records that this process has read back."""
    return sum(worker.metric("intent_recovered_records_total").values())


def folders(worker: Worker) -> list[Path]:
    """The partitions' state folders, those set aside not among them."""
    return sorted(worker.settings.worker.data_dir.rglob("*.db"))


def held(worker: Worker) -> dict[bytes, bytes]:
    """Everything in the state folders of a worker that has ended."""
    found: dict[bytes, bytes] = {}
    for path in folders(worker):
        database = rocksdict.Rdict(str(path), options=options())
        found |= cast("Iterable[tuple[bytes, bytes]]", database.items())
        database.close()
    return found


def to_disk(path: Path) -> Path:
    """Write the folder's memory table into a file; the file."""
    database = rocksdict.Rdict(str(path), options=options())
    database.flush()
    database.close()
    return next(path.glob("*.sst"))


def test_an_intact_folder_reopens_without_replay_and_a_damaged_one_is_rebuilt(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    servers = settings.kafka.bootstrap_servers
    story = list(itertools.islice(simulated(), 3000))

    publish(servers, settings.topics.events, story[:1000])
    worker.start()
    until(lambda: drained(worker, 1000), worker, "the first part is done")
    worker.kill()

    publish(servers, settings.topics.events, story[1000:2000])
    worker.start()
    until(lambda: drained(worker, 2000), worker, "the second part is done")
    assert recovered(worker) == 0
    worker.kill()

    # one folder does not open, another opens and fails when it is read
    unopenable, unreadable = folders(worker)[:2]
    (manifest,) = unopenable.glob("MANIFEST-*")
    manifest.write_bytes(b"")
    file = to_disk(unreadable)
    file.write_bytes(bytes(file.stat().st_size // 2) + file.read_bytes()[file.stat().st_size // 2 :])
    publish(servers, settings.topics.events, story[2000:])
    worker.start(wait=False)
    assert worker.await_end() == 1
    assert "the next start rebuilds it" in worker.log.read_text()
    worker.start()
    until(lambda: drained(worker, 3000), worker, "the third part is done")
    check(worker, restarted=True)
    assert [Path(line["folder"]) for line in worker.told("state folder damaged")] == [unopenable, unreadable]
    for path in (unopenable, unreadable):
        assert len(list(path.parent.glob(f"{path.name}.damaged-*"))) == 1


def test_a_changelog_that_was_created_anew_stops_the_start(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    servers = settings.kafka.bootstrap_servers
    publish(servers, settings.topics.events, itertools.islice(simulated(), 500))
    worker.start()
    until(lambda: drained(worker, 500), worker, "all is done")
    assert worker.stop() == 0
    scores = len(read_all(servers, settings.topics.scores))

    admin = AdminClient({"bootstrap.servers": servers})
    admin.delete_topics([settings.changelog], operation_timeout=30)[settings.changelog].result(30)
    until(lambda: topics.create(settings)[settings.changelog], worker_ended(worker), "the topic is created again")
    worker.start(wait=False)
    assert worker.await_end() == 1
    (fatal,) = worker.told("fatal")
    assert "was filled from another changelog topic" in fatal["why"]
    assert "exception" not in fatal, "a sentence, no traceback"
    assert len(read_all(servers, settings.topics.scores)) == scores


def worker_ended(worker: Worker) -> Worker:
    """The same deployment without its process, for `until`."""
    return Worker(worker.settings, worker.log)


DIES_REBUILDING = """
import os, signal, sys
from worker.cli import main
from worker.stream.table import Store

fill, filled = Store.fill, 0

def fill_and_die(self, partition, items, changelog_offset):
    global filled
    fill(self, partition, items, changelog_offset)
    filled += len(items)
    if filled >= 50_000:
        print("filled", filled, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

Store.fill = fill_and_die
sys.argv = ["intent", "worker"]
main()
"""


def test_a_rebuild_that_is_killed_goes_on_where_it_stopped(deploy: Deploy) -> None:
    """Windows that are alike: the broker has a partition's in one fetch, the store takes them in several writes."""
    worker = deploy()
    settings = worker.settings
    total, marks = 150_000, settings.topics.partitions
    fill_changelog(worker, total)
    dying = replace(worker, command=(sys.executable, "-c", DIES_REBUILDING))
    dying.start(wait=False)
    assert dying.await_end() == -signal.SIGKILL
    held_before = int(re.findall(r"^filled (\d+)$", worker.log.read_text(), re.MULTILINE)[0])
    assert held_before < 0.5 * total
    assert worker.told("recovered") == []
    worker.start()
    assert recovered(worker) == total + marks - held_before
    assert worker.metric("intent_recovery_remaining_records") == {(): 0}
    assert worker.stop() == 0
    assert sum(key.startswith(b"user-") for key in held(worker)) == total
    assert marks == len(folders(worker))


def fill_changelog(worker: Worker, count: int) -> None:
    """A window for each of so many users, as an earlier worker would have left them."""
    settings = worker.settings
    key, body, _ = event("user", 0, START_MS)
    before = None
    for number in range(8):
        key, body, _ = event("user", number, START_MS)
        seen = facts.of(decode(body, key=key, timestamp_ms=START_MS))
        before = window.fold(before, seen, rules=window.Rules()).window
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "compression.type": "lz4",
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    partitions = settings.topics.partitions
    for number in range(count):
        producer.produce(settings.changelog, before, b"user-%d" % number, partition=number % partitions)
        if number % 1000 == 0:
            producer.poll(0)
    for partition in range(partitions):
        producer.produce(settings.changelog, Watermark(-1, START_MS).encode(), KEY, partition=partition)
    assert producer.flush(60) == 0


def test_erased_and_expired_users_stay_so_through_crash_and_rebuild(deploy: Deploy) -> None:
    """Each comes back with an event that would be a duplicate, had the window risen from the dead."""
    worker = deploy()
    settings = worker.settings
    servers = settings.kafka.bootstrap_servers
    users = [f"user-{number}" for number in range(40)]
    later_ms = START_MS + 36 * DAY_MS

    def firsts(time_ms: int) -> Iterator[Record]:
        return (event(user, 0, time_ms) for user in users)

    # The erased are even. The odd ones expire when later ones come, and the sweep finds them.
    story = [*firsts(START_MS), *(event(user, 1, START_MS + 1, type="user.erase") for user in users[::2])]
    enough = 2 * len(users) * SWEEP_SHARE
    newcomers = [event(f"~{number}", 0, later_ms, type="page_view") for number in range(enough)]  # keys behind theirs
    publish(servers, settings.topics.events, story)
    worker.start()
    done = len(story)
    until(lambda: drained(worker, done), worker, "they came and half of them were erased")
    publish(servers, settings.topics.events, newcomers)
    done += len(newcomers)
    tombstones = Topic(servers, settings.changelog)
    until(lambda: gone(tombstones) >= set(users), worker, "the other half is swept")
    until(lambda: drained(worker, done), worker, "all is done")
    worker.kill()

    state = settings.worker.data_dir
    state.rename(state.with_name("lost"))
    worker.start()
    assert recovered(worker) > 0
    worker.kill()
    assert not {key.decode() for key in held(worker) if key[:1] != b"\xff"} & set(users)

    publish(servers, settings.topics.events, firsts(later_ms))
    worker.start()
    until(lambda: drained(worker, done + len(users)), worker, "they came back")
    check(worker, restarted=True)
    back = [value(score) for score in read_all(servers, settings.topics.scores)][-len(users) :]
    assert {score["window"]["events"] for score in back} == {1}


def gone(changelog: Topic) -> set[str]:
    """Users whose newest changelog record is a tombstone."""
    changelog.poll()
    newest = {record.key: record.value for record in changelog.records if record.key}
    return {key.decode() for key, left in newest.items() if left is None}


def test_a_standby_takes_over_with_only_the_tail_to_read(deploy: Deploy, tmp_path: Path) -> None:
    first = deploy(standby_replicas=1, instance_id=None, session_timeout_s=6)
    own = {"data_dir": tmp_path / "standby", "web_port": free_port()}
    second = Worker(
        first.settings.model_copy(update={"worker": first.settings.worker.model_copy(update=own)}),
        tmp_path / "standby.log",
    )
    settings = first.settings
    servers = settings.kafka.bootstrap_servers
    story = list(itertools.islice(simulated(), 6000))
    try:
        first.start()
        second.start()
        until(lambda: len(owned(first)) + len(owned(second)) == settings.topics.partitions, first, "a balance")
        until(lambda: stands_by(second) >= owned(first) != set(), second, "the second stands by for the first")
        publish(servers, settings.topics.events, story[:5000])
        until(lambda: done(first) + done(second) == 5000, first, "the first part is done")
        recoveries = len(second.told("recovered"))
        first.kill()
        publish(servers, settings.topics.events, story[5000:])
        until(lambda: drained(second, 6000), second, "the second has taken over")
        assert sum(line["records"] for line in second.told("recovered")[recoveries:]) < 500
        check(second, restarted=True)
        assert second.stop() == 0
    finally:
        second.close()


def owned(worker: Worker) -> set[int]:
    """The partitions that the worker works on."""
    return {int(partition) for (partition,) in worker.metric("intent_watermark_offset")}


def stands_by(worker: Worker) -> set[int]:
    """The partitions whose state the worker has found to be complete as a standby."""
    return {line["partition"] for line in worker.told("standing by")}


def done(worker: Worker) -> int:
    """Source offsets done in the partitions that the worker works on."""
    return int(sum(offset + 1 for offset in worker.metric("intent_watermark_offset").values()))
