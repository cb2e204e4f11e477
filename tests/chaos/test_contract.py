"""The delivery contract, a test or two a promise, and what else is said of a worker that is stopped, held or crowded.

The real worker on a real Kafka, its scorer a hash of the window; the campaign shows the same of faults in any mixture.
"""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos import changelog, story
from tests.chaos.audit import Findings
from tests.chaos.conftest import MakeWorld
from tests.chaos.episode import conclude
from tests.chaos.story import LEAP_MS, START_MS, Outgoing
from tests.chaos.workers import Place, forget
from tests.chaos.world import World, await_
from tests.integration import stories
from tests.integration.deployment import read_all
from tests.integration.verdict import Verdict, value
from worker.pipeline import SWEEP_SHARE

pytestmark = [pytest.mark.broker, pytest.mark.chaos]

WITHIN_S: Final = 60.0
BUSY_S: Final = 20.0
"""A busy machine may take so long to do what takes none; below any limit of a worker's but the one in question."""
PATIENT: Final = {"session_timeout_s": 10, "request_timeout_s": 15}
"""Of a worker that must stay in its group: on a busy machine it may not come to a heartbeat for seconds."""
HELD_S: Final = 60.0
HELD_GROWTH_BYTES: Final = 96 << 20
"""Of resident memory, while the scorer is held: 5,000 queued events, a fetch of 4 MiB a partition, and its batches."""
RATE: Final = 800.0


def shoppers(count: int, *, seed: int = 5, hot: story.Hot = "no") -> Iterator[Outgoing]:
    return islice(story.story(random.Random(seed), partitions=4, hot=hot), count)


def seen(user: str, number: int, time_ms: int) -> Outgoing:
    key, body, headers = stories.event(user, number, time_ms)
    return Outgoing(int(user.partition(":")[0]), key, body, headers)


def erase(user: str, time_ms: int) -> Outgoing:
    key, body, headers = stories.event(user, 0, time_ms, type="user.erase", event_id=f"erase {user}")
    return Outgoing(int(user.partition(":")[0]), key, body, headers)


def only(world: World) -> Place:
    return world.workers.places[0]


def await_scores(world: World, count: int) -> None:
    assert grown(lambda: len(world.published.arrivals), count), only(world).said()


def await_sent(world: World, count: int) -> None:
    assert grown(lambda: len(world.traffic.sent), count)


def grown(size: Callable[[], int], count: int) -> bool:
    """Whether it comes to be so much without standing still: how long that takes in all is the machine's business."""
    while (now := size()) < count:
        if not await_(lambda now=now: size() > now, WITHIN_S):  # type: ignore[misc]  # bound per step
            return False
    return True


def metric(place: Place, name: str) -> dict[tuple[str, ...], float]:
    text = (place.get("metrics") or b"").decode()
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def await_exit(place: Place, count: int = 1) -> int:
    """The exit code of the `count`-th end."""
    assert await_(lambda: len(place.exits) >= count, WITHIN_S), place.said()
    return place.exits[count - 1].code


# -- the README's promises, by their numbers ---------------------------------------------------------------------------


def test_1_every_event_has_one_fate(start: MakeWorld) -> None:
    """Of a worker that was not restarted its own counters add up, fate by fate; nothing bad has disappeared."""
    world = start(shoppers(2000), rate=RATE, **PATIENT)
    await_sent(world, 2000)
    assert world.await_drained()
    # readers see a commit before the worker knows that they do, and only then it counts
    assert await_(lambda: sum(metric(only(world), "intent_events_total").values()) == 2000, WITHIN_S)
    counted = {labels[0]: count for labels, count in metric(only(world), "intent_events_total").items() if count}
    verdict, found = conclude(world, scorer="digest")
    assert counted == dict(verdict.counts)
    assert found == Findings()  # the dead letters among it: as they came, with their reasons


def test_2_no_event_is_lost_none_counts_twice_each_score_is_published_once(start: MakeWorld) -> None:
    world = start(shoppers(3000), rate=RATE, max_batch_events=100)
    for due in (500, 1200, 1900):
        await_scores(world, due)
        only(world).kill()
    await_sent(world, 3000)
    verdict, found = conclude(world, scorer="digest")
    assert found == Findings()
    assert {"scored", "duplicate", "late", "erased", "dead"} <= verdict.counts.keys()


def test_2_scores_are_repeatable(start: MakeWorld) -> None:
    """Another application reads the same events, in other batches, and says the same of each."""
    first = start(shoppers(1500), rate=RATE, max_batch_events=40)
    await_sent(first, 1500)
    assert first.await_drained()
    again = start(topics={"events": first.settings.topics.events}, max_batch_events=1000)
    await_scores(again, len(first.published.arrivals))
    one, other = (dict(committed(world)) for world in (first, again))
    assert one == other
    assert len(one) > 1000
    assert conclude(first, scorer="digest")[1] == Findings()


def test_3_every_updated_window_is_scored(start: MakeWorld) -> None:
    """Mode `latest`: a newer window of the user in the same batch may stand for one. Mode `every`: see promise 2."""
    world = start(shoppers(2000), rate=RATE, mode="latest")
    await_scores(world, 300)
    only(world).kill()
    await_sent(world, 2000)
    verdict, found = conclude(world, scorer="digest")
    newest = {record.key: value(record)["score_id"] for record in world.published.lives[0].committed if record.key}
    assert {user: newest[user.encode()] for user in verdict.newest_score} == verdict.newest_score
    found.lost = found.uncommitted = []
    assert found == Findings()


def test_4_event_time_decides_and_not_the_clock(start: MakeWorld) -> None:
    """Users expire by the events of others: while the wall clock moves by seconds, event time leaps over weeks."""
    day_ms = 86_400_000
    times = [START_MS + day * day_ms for day in (0, 29, 31, 66, 67, 103)]
    world = start(
        [seen(f"0:{user}", number, time_ms) for number, time_ms in enumerate(times) for user in range(number + 1)]
    )
    await_sent(world, sum(range(1, len(times) + 1)))
    verdict, found = conclude(world, scorer="digest")
    assert found == Findings()
    assert verdict.partitions[0].users["0:0"].folded == ["0:0-5"]  # started afresh after 36 days


def test_5_in_doubt_the_worker_stops_uncommitted(start: MakeWorld) -> None:
    began, rest = _halves(600)
    world = start(began)
    place = only(world)
    await_scores(world, 100)
    place.wanted = False  # what it leaves behind is looked at before it starts again
    assert place.order("raise", 1_000_000)
    world.traffic.inject(rest)
    assert await_exit(place) == 1
    await_sent(world, 600)
    servers, topics = world.settings.kafka.bootstrap_servers, world.settings.topics
    verdict = Verdict(topics.events, read_all(servers, topics.events))
    tables = changelog.newest(read_all(servers, world.settings.changelog))
    marks = {number: changelog.watermark(table[changelog.WATERMARK] or b"")[0] for number, table in tables.items()}
    done = {place for place in verdict.fates if place[1] <= marks.get(place[0], -1)}
    assert {f"{topics.events}-{p}-{o}" for p, o in done if verdict.fates[p, o] == "scored"} == set(
        dict(committed(world))
    )
    assert done != verdict.fates.keys()
    place.start()
    assert conclude(world, scorer="digest")[1] == Findings()


def committed(world: World) -> Iterator[tuple[str, tuple[str, dict[str, float]]]]:
    """Score id, and what it says."""
    for record in read_all(world.settings.kafka.bootstrap_servers, world.settings.topics.scores):
        score = value(record)
        yield score["score_id"], (score["window"]["digest"], score["intent"])


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_sigterm_drains_what_is_in_flight_and_exits_0(start: MakeWorld) -> None:
    world = start(shoppers(3000), rate=RATE)
    await_scores(world, 500)
    assert only(world).stop(within_s=world.settings.worker.shutdown_timeout_s) == 0
    only(world).start()
    await_sent(world, 3000)
    assert conclude(world, scorer="digest")[1] == Findings()


def test_a_second_sigterm_exits_non_zero_at_once(start: MakeWorld) -> None:
    world = _held(start, shutdown_timeout_s=30)
    place = only(world)

    def told_again() -> bool:
        place.send(signal.SIGTERM)  # two at once may arrive as one
        return bool(place.exits)

    assert await_(told_again, 20)
    assert place.exits[0].code == 1
    assert conclude(world, scorer="digest")[1] == Findings()


def test_a_stuck_device_ends_the_worker_within_the_time_for_stopping(start: MakeWorld) -> None:
    world = _held(start, shutdown_timeout_s=2)
    place = only(world)
    began = time.monotonic()
    place.send(signal.SIGTERM)
    assert await_exit(place) == 1
    assert "batches given up" in place.exits[0].said  # that was its reason
    assert place.exits[0].at_s - began < 2 + BUSY_S
    assert conclude(world, scorer="digest")[1] == Findings()


def _held(start: MakeWorld, **worker: object) -> World:
    """A worker with batches that wait for its scorer."""
    began, rest = _halves(1000)
    world = start(began, **worker)
    await_scores(world, 100)
    assert only(world).order("hold")
    world.traffic.inject(rest)
    await_sent(world, 1000)
    return world


def _halves(count: int) -> tuple[list[Outgoing], list[Outgoing]]:
    """What is sent before and after the scorer is told."""
    told = list(shoppers(count))
    return told[: count // 2], told[count // 2 :]


# -- erasure and expiry ------------------------------------------------------------------------------------------------


def test_erasure_and_expiry_survive_a_crash_and_a_lost_folder(start: MakeWorld) -> None:
    """Both leave tombstones in the changelog and in the newest scores; users who return start afresh."""
    users = [f"{number % 4}:{number}" for number in range(40)]
    erased, silent = users[:10], users[10:20]
    began = [seen(user, number, START_MS + number) for number in range(5) for user in users]
    world = start([*began, *(erase(user, START_MS + 10) for user in erased)])
    await_sent(world, len(began) + len(erased))
    assert world.await_drained()
    only(world).kill()
    others = [user for user in users if user not in {*erased, *silent}]
    rounds = 3 * SWEEP_SHARE  # a partition's events then sweep its ten users more than once
    later = [seen(user, 6 + number, START_MS + LEAP_MS + number) for number in range(rounds) for user in others]
    world.traffic.inject(later)
    await_scores(world, len(began) + len(later))
    only(world).kill(rest=True)
    forget(only(world).folder)
    only(world).start()
    back = [erased[0], silent[0]]
    world.traffic.inject(seen(user, 99, START_MS + LEAP_MS + 99) for user in back)
    await_scores(world, len(began) + len(later) + len(back))
    _, found = conclude(world, scorer="digest")
    assert found == Findings()
    tables = changelog.newest(read_all(world.settings.kafka.bootstrap_servers, world.settings.changelog))
    windows = {user.decode(): stored for table in tables.values() for user, stored in table.items() if user[0] != 255}
    assert {user for user in erased[1:] + silent[1:] if windows[user] is not None} == set()
    for user in back:
        assert len(changelog.window(windows[user] or b"").kept) == 1


# -- crowds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hot", ["user", "partition"])
def test_others_keep_flowing_beside_a_hot_user_or_partition(start: MakeWorld, hot: story.Hot) -> None:
    """A crowd waits in partition 0; events of other partitions come after it, and are done before it is."""
    world = start(max_batch_events=200)
    one = "0:hot" if hot == "user" else None
    crowd = [seen(one or f"0:{number % 50}", number, START_MS + number) for number in range(15_000)]
    others = [seen(f"{partition}:calm", number, START_MS + number) for number in range(20) for partition in (1, 2, 3)]
    assert only(world).order("hold")  # else it may be done with the crowd before the others are sent
    world.traffic.inject([*crowd, *others])
    await_sent(world, len(crowd) + len(others))
    assert only(world).order("release")
    await_scores(world, len(crowd) + len(others))
    scores = read_all(world.settings.kafka.bootstrap_servers, world.settings.topics.scores)
    assert len({value(score)["score_id"] for score in scores}) == len(scores) == len(crowd) + len(others)
    calm = max(value(score)["scored_at"] for score in scores if score.partition != 0)
    assert sum(value(score)["scored_at"] > calm for score in scores if score.partition == 0) > 1000


@pytest.mark.slow
def test_a_scorer_held_for_a_minute_costs_no_memory_no_membership_and_no_event(start: MakeWorld) -> None:
    world = start(max_queued_events=5000, transaction_timeout_s=30, **PATIENT)
    place = only(world)
    assert place.pid is not None
    process = psutil.Process(place.pid)
    world.traffic.inject(seen(f"{number % 4}:{number % 999}", number, START_MS + number) for number in range(2000))
    await_scores(world, 2000)
    rebalances, before = metric(place, "intent_rebalances_total"), process.memory_info().rss
    assert place.order("hold")
    count = 120_000
    crowd = (seen(f"{n % 4}:{n % 999}", n, START_MS + n) for n in range(2000, 2000 + count))
    until, grown = time.monotonic() + HELD_S, 0
    while time.monotonic() < until:
        world.traffic.inject(islice(crowd, 1200))
        assert place.get("livez") is not None
        grown = max(grown, process.memory_info().rss - before)
        await_(lambda: False, 0.5)
    assert len(world.published.arrivals) == 2000
    assert metric(place, "intent_rebalances_total") == rebalances
    assert grown < HELD_GROWTH_BYTES
    world.traffic.inject(crowd)
    assert place.order("release")
    await_scores(world, 2000 + count)
    assert place.exits == []
    assert max(Counter((partition, offset) for _, partition, offset in world.published.arrivals).values()) == 1
