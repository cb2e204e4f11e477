"""Which fetched record is next: contiguity, seeking back, and each partition's share of what may wait. No broker."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import InvalidTransactionTimeout
from faust.types import TP
from prometheus_client import CollectorRegistry

from tests.unit.stream.fetched import recs, sized
from worker import config, watermark
from worker.errors import Fatal
from worker.ops.metrics import Metrics
from worker.stream.assignment import Partitions
from worker.stream.output import Rendered
from worker.stream.partition import Partition, Shared
from worker.stream.quota import Quota
from worker.watermark import Watermark

SOURCE = TP("events", 3)
TOPIC_ID = "JnVd-cvLTUKTZbmkqcHb_A"


class Store:
    def __init__(self, done: int, topic_id: str = "") -> None:
        self._mark = Watermark(done, 0, topic_id).encode() if done >= 0 else None

    def read(self, partition: int) -> Any:
        assert partition == SOURCE.partition
        return {watermark.KEY: self._mark}.get


class Empty:
    def read(self, _: int) -> Any:
        return {}.get


class Folder(dict[bytes, bytes]):
    """A store that keeps what it is given, beside some users."""

    def __init__(self, *users: bytes) -> None:
        super().__init__()
        self._users = users

    def read(self, _: int) -> Any:
        return self.get

    def browse(self, _: int, *, after: bytes, count: int) -> list[tuple[bytes, bytes]]:
        return [(user, b"window") for user in self._users if user > after][:count]

    def write(self, _: int, items: Sequence[tuple[bytes, bytes]], __: int) -> None:
        self.update(items)


class Never:
    """A producer that sends nothing."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@pytest.fixture
def partitions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Partitions:
    async def idle(*_: object, **__: object) -> None:
        """In place of the pipeline: what is fed stays in the queue."""

    monkeypatch.setattr("worker.stream.partition.run", idle)
    for what in ("end", "settle"):
        monkeypatch.setattr(f"worker.stream.hanging.{what}", idle)  # nothing was left open
    settings = config.load(
        {
            "worker": {"data_dir": tmp_path, "max_batch_events": 4, "max_queued_events": 10},
            "topics": {"events": "events"},
        }
    )
    shared = Shared(
        settings=settings,
        engine=None,
        metrics=Metrics(CollectorRegistry()),
        new_producer=lambda _: Never(),
        events_id=lambda: TOPIC_ID,
        fatal=lambda why, error: pytest.fail(f"{why}: {error}"),
    )
    return Partitions(shared)


async def opened(partitions: Partitions, done: int, topic_id: str = "") -> Partition:
    await partitions.open([SOURCE], 1)
    partitions.start([SOURCE], Store(done, topic_id), 1)  # type: ignore[arg-type]  # as far as a start reads it
    await asyncio.sleep(0)
    return partitions._parts[SOURCE]


async def offsets(part: Partition) -> list[int]:
    taken: Sequence[Any] = await part.take(0.0)
    return [record.offset for record in taken]


async def test_a_transaction_that_the_brokers_allow_no_time_for_is_told_by_the_setting(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_: Never) -> None:
        raise InvalidTransactionTimeout

    monkeypatch.setattr(Never, "start", refused)
    with pytest.raises(Fatal, match=r"twice `worker\.transaction_timeout_s`, which is 30; lower it"):
        await partitions.open([SOURCE], 1)


async def test_a_commit_that_takes_too_long_is_told_by_the_setting(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered(*_: object, **__: object) -> None:
        raise TimeoutError

    nothing = Rendered(changelog=[], scores=[], latest=[], dead_letters=[])
    monkeypatch.setattr("worker.stream.partition.render", lambda *_, **__: nothing)
    monkeypatch.setattr("worker.stream.transaction.commit", unanswered)
    part = await opened(partitions, done=-1)
    with pytest.raises(Fatal, match=r"not over after 30 s \(`worker\.transaction_timeout_s`\); look at the brokers"):
        await part.publish(None, ())  # type: ignore[arg-type]  # nobody looks at it
    held = Quota()
    held.heed(SimpleNamespace(throttle_time_ms=187_000))
    monkeypatch.setattr("worker.stream.partition.quota", held)
    with pytest.raises(Fatal, match=r"holds this worker back by a quota, for 187 s .*`producer_byte_rate`"):
        await part.publish(None, ())  # type: ignore[arg-type]  # as above


async def test_a_partition_without_events_is_heard_of_all_the_same(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka forgets who was silent for a week."""
    heard: list[tuple[list[str], int]] = []

    async def renew(_: Never, topics: list[str], *, partition: int) -> None:
        heard.append((topics, partition))
        if len(heard) == 2:
            partitions.feed(SOURCE, recs(0), 1)

    monkeypatch.setattr("worker.stream.partition._RENEW_S", 0.01)
    monkeypatch.setattr("worker.stream.transaction.renew", renew)
    part = await opened(partitions, done=-1)
    assert await asyncio.wait_for(offsets(part), 5) == [0]
    assert heard == [(["intent-windows-changelog"], SOURCE.partition)] * 2


async def test_what_is_done_is_skipped_and_the_rest_taken_whole(partitions: Partitions) -> None:
    part = await opened(partitions, done=4)
    assert partitions.feed(SOURCE, recs(3, 4, 5, 6), 9) is None
    assert partitions.feed(SOURCE, recs(7, 8), 9) is None
    assert await offsets(part) == [5, 6, 7, 8]


async def test_a_partition_that_closes_ends_the_wait_of_an_early_batch(partitions: Partitions) -> None:
    part = await opened(partitions, done=-1)
    partitions.feed(SOURCE, recs(0), 9)
    waiting = asyncio.create_task(part.take(60.0))
    await asyncio.sleep(0)
    assert await part.close(5)
    assert await asyncio.wait_for(waiting, 5) == []


async def test_a_fetch_that_is_all_done_seeks_forward(partitions: Partitions) -> None:
    await opened(partitions, done=100)
    assert partitions.feed(SOURCE, recs(3, 4), 200) == 101


async def test_a_topic_that_ends_before_what_is_done_of_it_is_another(partitions: Partitions) -> None:
    part = await opened(partitions, done=100)
    assert partitions.feed(SOURCE, recs(3, 4), 5) == 101  # on its way since before the seek, perhaps
    with pytest.raises(Fatal, match="events ends at offset 5 in partition 3, of which 101 are done"):
        partitions.feed(SOURCE, recs(3, 4), 5)
    assert part.queue.events == 0


async def test_a_watermark_of_another_topic_starts_nothing(partitions: Partitions) -> None:
    with pytest.raises(Fatal, match=f"events has the id {TOPIC_ID}, and what is done, up to offset 9, are events"):
        await opened(partitions, done=9, topic_id="MkU3OEVBNTcwNTJENDM2Qk")
    assert not partitions.live
    assert partitions.due() == {}


async def test_a_partition_goes_on_in_the_topic_it_was_in(partitions: Partitions) -> None:
    await opened(partitions, done=9, topic_id=TOPIC_ID)
    assert partitions.due() == {SOURCE: 10}


async def test_large_records_wait_and_go_in_batches_bounded_by_their_bytes(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stream.fetchqueue.BATCH_BYTES", 100)
    monkeypatch.setattr("worker.stream.assignment.QUEUED_BYTES", 300)
    part = await opened(partitions, done=-1)
    partitions.feed(SOURCE, sized(0, 40, 40, 40), 9)
    assert partitions.full == set()
    partitions.feed(SOURCE, sized(3, 150, 0, 61), 9)
    assert partitions.full == {SOURCE}
    assert [await offsets(part) for _ in range(4)] == [[0, 1], [2], [3], [4, 5]]
    assert (part.queue.events, part.queue.bytes) == (0, 0)


async def test_an_early_batch_does_not_wait_for_more_than_may_wait(partitions: Partitions) -> None:
    other = TP("events", 4)
    third = TP("events", 5)
    await partitions.open([SOURCE, other, third], 1)
    partitions.start([SOURCE, other, third], Empty(), 1)  # type: ignore[arg-type]
    part = partitions._parts[SOURCE]
    partitions.feed(SOURCE, recs(0, 1, 2, 3), 9)
    partitions.feed(SOURCE, recs(4, 5, 6), 9)
    assert await offsets(part) == [0, 1, 2, 3]
    partitions.feed(SOURCE, recs(7), 9)  # 4 of the third of 10 that may wait
    assert len(await asyncio.wait_for(part.take(60.0), 5)) == 4


async def test_events_that_come_behind_a_batch_that_stands_still_are_no_progress(partitions: Partitions) -> None:
    """A device that answers no more is told by that alone: the queue may take hours to be full."""
    part = await opened(partitions, done=-1)
    partitions.progressed_at = 0.0
    partitions.feed(SOURCE, recs(0), 1)
    began, partitions.progressed_at = partitions.progressed_at, 0.0
    assert await offsets(part) == [0]
    partitions.feed(SOURCE, recs(1), 2)
    assert began > 0.0
    assert partitions.progressed_at == 0.0


async def test_markers_behind_the_last_record_are_no_lag_once_they_are_passed(partitions: Partitions) -> None:
    part = await opened(partitions, done=-1)
    partitions.feed(SOURCE, recs(0, 1), 5)
    await offsets(part)
    partitions.committed[SOURCE] = 2
    assert partitions.lag == 3, "there may be records among them"
    partitions.read_to_the_end(SOURCE)
    assert partitions.lag == 0
    partitions.feed(SOURCE, recs(2, 3, 4, 5), 7)
    partitions.read_to_the_end(SOURCE)
    assert partitions.lag == 4, "what is fed and not done"


async def test_a_gap_is_sought_once_and_then_taken_for_a_hole_in_the_source(partitions: Partitions) -> None:
    part = await opened(partitions, done=9)
    assert partitions.feed(SOURCE, recs(12, 13), 20) == 10
    assert partitions.feed(SOURCE, recs(12, 13), 20) is None
    assert await offsets(part) == [12, 13]
    assert partitions.feed(SOURCE, recs(16), 20) == 14


async def test_the_sweep_goes_on_where_the_former_owner_of_the_folder_left_it(partitions: Partitions) -> None:
    """Owners may change more often than it comes round: those of the last keys would stay for ever."""
    folder = Folder(b"a", b"b", b"c", b"d", b"e")
    seen = []
    for _ in range(4):
        await partitions.open([SOURCE], 1)
        partitions.start([SOURCE], folder, 1)  # type: ignore[arg-type]
        part = partitions._parts[SOURCE]
        seen.append([key for key, _ in part.browse(2)])
        part.store({}, Watermark(), 0)
    assert seen == [[b"a", b"b"], [b"c", b"d"], [b"e", b"a"], [b"b", b"c"]]


async def test_a_large_batch_sweeps_every_user_once_wherever_the_sweep_stood(partitions: Partitions) -> None:
    await partitions.open([SOURCE], 1)
    partitions.start([SOURCE], Folder(b"a", b"b", b"c"), 1)  # type: ignore[arg-type]
    part = partitions._parts[SOURCE]
    assert [[key for key, _ in part.browse(count)] for count in (2, 9, 9)] == [
        [b"a", b"b"],
        [b"c", b"a", b"b"],
        [b"c", b"a", b"b"],
    ]


async def test_each_hole_between_fetches_is_sought_once_and_none_within_one(partitions: Partitions) -> None:
    """As of a transactional source, whose markers hold offsets: however many, one more fetch for each boundary."""
    part = await opened(partitions, done=-1)
    sought = []
    for first in range(0, 30, 10):
        fetch = recs(*range(first + 1, first + 4), *range(first + 5, first + 9))
        while (due := partitions.feed(SOURCE, fetch, 30)) is not None:
            sought.append(due)
    assert sought == [0, 9, 19]
    assert part.due == 29
    assert part.queue.events == 21


async def test_a_fetch_without_a_hole_is_taken_at_once(partitions: Partitions) -> None:
    part = await opened(partitions, done=-1)
    assert [partitions.feed(SOURCE, recs(first, first + 1), 9) for first in (0, 2, 4)] == [None] * 3
    assert part.due == 6


async def test_a_hole_that_was_taken_proves_no_other_fetch_of_its_place(partitions: Partitions) -> None:
    """What is behind it may have gone astray as well; a fetch from before it is done, and leads to what is due."""
    part = await opened(partitions, done=9)
    assert [partitions.feed(SOURCE, recs(12, 13), 20) for _ in range(2)] == [10, None]
    assert partitions.feed(SOURCE, recs(12, 13), 20) == 14
    assert partitions.feed(SOURCE, recs(12, 13), 20) == 14, "the topic does not end there: no reason to stop"
    assert partitions.feed(SOURCE, recs(16), 20) is None, "it was asked for from 14 on"
    assert part.queue.events == 3


async def test_what_is_done_of_a_topic_need_not_be_all_that_it_holds(partitions: Partitions) -> None:
    """At its very end there is nothing to fetch; a record behind it is told with an end behind it."""
    await opened(partitions, done=9)
    assert [partitions.feed(SOURCE, recs(3, 9), 10) for _ in range(3)] == [10] * 3


async def test_a_stray_fetch_loses_nothing(partitions: Partitions) -> None:
    part = await opened(partitions, done=9)
    assert partitions.feed(SOURCE, recs(12, 13), 20) == 10
    assert partitions.feed(SOURCE, recs(10, 11, 12, 13), 20) is None
    assert await offsets(part) == [10, 11, 12, 13]


async def test_a_partition_is_live_once_nothing_of_its_former_owner_hangs(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then no event that arrives gets a score."""
    begun, over, working = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def settling(*_: object, **__: object) -> None:
        begun.set()
        await over.wait()

    async def run(*_: object, **__: object) -> None:
        working.set()

    monkeypatch.setattr("worker.stream.hanging.settle", settling)
    monkeypatch.setattr("worker.stream.partition.run", run)
    await opened(partitions, done=-1)
    await asyncio.wait_for(begun.wait(), 5)
    assert partitions.recovered
    assert not partitions.live
    over.set()
    await asyncio.wait_for(working.wait(), 5)
    assert partitions.live


async def test_nothing_is_taken_before_recovery(partitions: Partitions) -> None:
    await partitions.open([SOURCE], 1)
    assert partitions.feed(SOURCE, recs(0), 1) is None
    assert partitions.queued == 0
    assert not partitions.live


async def test_another_generation_does_not_start_a_partition(partitions: Partitions) -> None:
    await partitions.open([SOURCE], 1)
    partitions.start([SOURCE], Store(-1), 2)  # type: ignore[arg-type]
    assert not partitions.live


async def test_a_full_partition_is_not_fetched_until_it_has_room_and_the_others_are(partitions: Partitions) -> None:
    other = TP("events", 4)
    await partitions.open([SOURCE, other], 1)
    partitions.start([SOURCE, other], Empty(), 1)  # type: ignore[arg-type]
    partitions.feed(SOURCE, recs(*range(7)), 7)  # its half of the 10 that may wait
    partitions.feed(other, recs(*range(4)), 4)
    assert partitions.full == {SOURCE}
    room = asyncio.ensure_future(partitions.room(30))
    await asyncio.sleep(0)
    assert not room.done()
    await partitions._parts[SOURCE].take(0.0)
    await asyncio.wait_for(room, 1)
    assert partitions.full == set()
    assert partitions.queued == 7


async def test_a_wait_for_room_is_bounded(partitions: Partitions) -> None:
    await opened(partitions, done=-1)
    partitions.feed(SOURCE, recs(*range(12)), 12)
    await partitions.room(0.01)
    assert partitions.full == {SOURCE}


async def test_a_seek_goes_to_the_next_record_of_each_partition_and_nowhere_before_recovery(
    partitions: Partitions,
) -> None:
    await partitions.open([SOURCE], 1)
    assert partitions.due() == {}
    await opened(partitions, done=41)
    assert partitions.due() == {SOURCE: 42}
    partitions.feed(SOURCE, recs(42, 43), 44)
    assert partitions.due() == {SOURCE: 44}


async def test_closing_ends_the_take_and_empties_the_queue(partitions: Partitions) -> None:
    part = await opened(partitions, done=-1)
    partitions.feed(SOURCE, recs(0, 1), 2)
    await partitions.close()
    assert await offsets(part) == []
    assert partitions.queued == 0
    assert partitions.feed(SOURCE, recs(2), 3) is None


async def test_who_closes_meanwhile_returns_no_sooner_than_the_batch_in_hand_is_done(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance during a stop: what is not closed yet is not free for its next owner, which would fence it off."""
    commit, took = asyncio.Event(), asyncio.Event()

    async def committing(*_: object, **__: object) -> None:
        took.set()
        await commit.wait()

    monkeypatch.setattr("worker.stream.partition.run", committing)
    await opened(partitions, done=-1)
    await asyncio.wait_for(took.wait(), 5)
    stop, revoke = (asyncio.create_task(partitions.close()) for _ in range(2))
    await asyncio.sleep(0.01)
    assert not stop.done()
    assert not revoke.done()
    commit.set()
    await asyncio.gather(stop, revoke)


async def test_closing_gives_up_a_batch_that_is_not_scored_in_time(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backlog in many partitions none is: workers ended for it, began again, and ended each other."""
    scoring = asyncio.Event()

    async def slow(*_: object, **__: object) -> None:
        scoring.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("worker.stream.partition.run", slow)
    part = await opened(partitions, done=-1)
    await asyncio.wait_for(scoring.wait(), 5)
    assert not await part.close(0.03)
    assert part._task is not None
    assert part._task.cancelled()


async def test_who_closes_hears_which_partitions_gave_up_their_batches(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closed(part: Partition, _: float) -> bool:
        return part.tp.partition == 3

    monkeypatch.setattr(Partition, "close", closed)
    await partitions.open([SOURCE, TP("events", 4)], 1)
    assert await partitions.close() == [4]


async def test_closing_fails_where_a_commit_does_not_end(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    committing, answer = asyncio.Event(), asyncio.Event()

    async def unanswered(*_: object, **__: object) -> None:
        committing.set()
        while not answer.is_set():  # as the pipeline waits for its commit, whoever cancels it
            with suppress(asyncio.CancelledError):
                await answer.wait()

    monkeypatch.setattr("worker.stream.partition.run", unanswered)
    part = await opened(partitions, done=-1)
    await asyncio.wait_for(committing.wait(), 5)
    with pytest.raises(Fatal, match=r"partition 3 did not finish its commit within 0\.03 s"):
        await part.close(0.03)
    answer.set()
