"""The whole way on a real broker with the shipped model: events in, scores out, checked against the oracle.

Every offset has one fate, every score the oracle's digest, every user's newest window a score; also when the worker is
killed in the middle.
"""

import datetime as dt
import itertools
import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration.conftest import Deploy
from tests.integration.deployment import Topic, Worker, publish, read_all, until
from tests.integration.stories import Record, bad, event, trouble
from tests.integration.verdict import Verdict, value
from worker.events import encode
from worker.shop import statistics
from worker.shop.ga360 import Sample
from worker.shop.simulate import Crowd, Simulator

pytestmark = pytest.mark.broker

EVENTS = 20_000
SAMPLE = Path(os.environ.get("INTENT_GA360", Path(__file__).parents[3] / "shared/data/ga360"))
START_MS = 1_760_000_000_000


def simulated() -> Iterator[Record]:
    """Shoppers with their own duplicates, disorder and late events, and trouble on top."""
    crowd = Crowd(rate=500, users=1500, speed=20, bots=0.02, duplicates=0.01, out_of_order=0.02, late=0.005)
    shop = Simulator(statistics.load(), crowd, seed=7, start_ms=START_MS)
    good: Iterator[Record] = ((sent.key, sent.value, {}) for sent in shop)
    return trouble(itertools.islice(good, EVENTS), seed=7)


def real() -> Iterator[Record]:
    """From a busy Monday morning of the sample."""
    if not (SAMPLE / "hits.parquet").exists():
        pytest.skip(f"the GA360 sample is not at {SAMPLE}; INTENT_GA360 may name its folder")
    start = dt.datetime(2016, 8, 8, 15, tzinfo=dt.UTC)
    events = Sample(SAMPLE).events(int(start.timestamp() * 1000), None)
    good: Iterator[Record] = ((event.user_id.encode(), encode(event), {}) for event in events)
    return trouble(itertools.islice(good, EVENTS), seed=8)


STORIES = {"simulated": simulated, "real": real}


def check(worker: Worker, *, restarted: bool, mode: str = "every") -> Verdict:
    """Everything that readers of committed records see, against the oracle."""
    settings = worker.settings
    servers, topics = settings.kafka.bootstrap_servers, settings.topics
    source = read_all(servers, topics.events)
    verdict = Verdict(topics.events, source)
    scores = read_all(servers, topics.scores)
    verdict.check_scores(scores, complete=mode == "every")
    verdict.check_order(scores)
    verdict.check_latest(read_all(servers, topics.latest))
    verdict.check_dead_letters(read_all(servers, topics.dead_letters), source)
    if not restarted:
        counted = {labels[0]: count for labels, count in worker.metric("intent_events_total").items()}
        assert sum(counted.values()) == len(source)
        if mode == "every":
            verdict.check_fates(counted)
        else:
            assert counted["coalesced"] == verdict.counts["scored"] - len(scores)
    return verdict


def drained(worker: Worker, total: int) -> bool:
    marks = worker.metric("intent_watermark_offset")
    return sum(marks.values()) + len(marks) == total


@pytest.mark.parametrize(("story", "mode"), [("simulated", "every"), ("real", "every"), ("simulated", "latest")])
def test_every_offset_has_one_fate(deploy: Deploy, story: str, mode: str) -> None:
    worker = deploy(mode=mode)
    total = publish(worker.settings.kafka.bootstrap_servers, worker.settings.topics.events, STORIES[story]())
    worker.start()
    until(lambda: drained(worker, total), worker, "all events are done")
    verdict = check(worker, restarted=False, mode=mode)
    assert {"scored", "duplicate", "late", "erased", "dead"} <= verdict.counts.keys()
    assert worker.stop() == 0


@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_lost_or_counted_twice_by_a_kill(deploy: Deploy, story: str) -> None:
    worker = deploy(max_batch_events=200)
    settings = worker.settings
    servers = settings.kafka.bootstrap_servers
    total = publish(servers, settings.topics.events, STORIES[story]())
    worker.start()
    scores = Topic(servers, settings.topics.scores)
    rng = random.Random(11)
    for share in (0.2, 0.5, 0.8):
        due = int(total * (share + rng.uniform(-0.1, 0.1)))
        until(partial(scores.reaches, due), worker, "the next kill is due")
        worker.kill()
        worker.start()
    scores.close()
    until(lambda: drained(worker, total), worker, "all events are done")
    check(worker, restarted=True)
    assert worker.stop() == 0


def test_a_lost_state_folder_is_rebuilt_from_the_changelog(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    servers = settings.kafka.bootstrap_servers
    story = list(itertools.islice(simulated(), 4000))
    publish(servers, settings.topics.events, story[:3000])
    worker.start()
    until(lambda: drained(worker, 3000), worker, "the first part is done")
    worker.kill()
    state = settings.worker.data_dir
    state.rename(state.with_name("lost"))
    publish(servers, settings.topics.events, story[3000:])
    worker.start()
    until(lambda: drained(worker, 4000), worker, "the second part is done")
    check(worker, restarted=True)
    assert sum(worker.metric("intent_recovered_records_total").values()) > 0


def test_bad_records_alone_reach_the_dead_letters_and_the_stream_goes_on(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    story = [*bad("ann"), event("ann", 1, START_MS), *bad("bob"), event("bob", 1, START_MS)]
    total = publish(settings.kafka.bootstrap_servers, settings.topics.events, story)
    worker.start()
    until(lambda: drained(worker, total), worker, "all events are done")
    verdict = check(worker, restarted=False)
    assert verdict.counts == {"dead": len(story) - 2, "scored": 2}


def test_the_score_record_says_who_when_which_model_and_why(deploy: Deploy) -> None:
    worker = deploy()
    settings = worker.settings
    story = [event("ann", n, START_MS + n * 1000, type=kind) for n, kind in enumerate(["view_item", "add_to_cart"])]
    publish(settings.kafka.bootstrap_servers, settings.topics.events, story)
    worker.start()
    until(lambda: drained(worker, 2), worker, "all events are done")
    first, second = sorted(
        map(value, read_all(settings.kafka.bootstrap_servers, settings.topics.scores)),
        key=lambda score: score["event_time"],
    )
    assert (first["user_id"], first["event_id"], first["event_time"]) == ("ann", "ann-0", "2025-10-09T08:53:20.000Z")
    assert second["window"]["first_event_time"] == first["event_time"]
    assert second["window"]["last_event_time"] == "2025-10-09T08:53:21.000Z"
    assert second["model"]["name"]
    assert second["model"]["version"]
    assert second["intent"]["purchase_24h"] > first["intent"]["purchase_24h"]
    assert "cart_added" in {reason["code"] for reason in second["reasons"]}
