"""Deployments of other shapes than one plain broker and one worker: each through trouble, with the oracle's word at the
end.
"""

import asyncio
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from tests.chaos.admin import compacted
from tests.chaos.audit import Findings
from tests.chaos.outcome import examine
from tests.conftest import MakeSettings
from tests.integration.deployment import DIGEST, ROOT, Topic, Worker, publish, read_all, until
from tests.integration.secured import Certificates, Guarded, inside, mutual_tls, rights
from tests.integration.stories import Record, event, trouble
from tests.unit.stream.fetched import Latin, builder
from worker.clock import now_ms
from worker.kafka import clients
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port
from worker.replay.plan import Stretch
from worker.replay.tape import Tape, reader
from worker.settings import Kafka, Settings

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SESSION_S = 15
"""Within it a worker that was killed starts again, on a busy machine too."""
START_MS = 1_760_000_000_000
PROGRAM = (sys.executable, "-m", "worker", "worker")

Join = Callable[..., Worker]


def story(count: int, *, users: int = 300, seed: int = 1) -> Iterator[Record]:
    """About so many records: events a second apart, and trouble among them."""
    rng = random.Random(seed)
    good = (event(f"user-{rng.randrange(users)}", number, START_MS + number * 1000) for number in itertools.count())
    return itertools.islice(trouble(good, seed=seed), count)


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """Make a worker of a deployment (not started), with a folder, a port and a membership of its own."""
    made: list[Worker] = []

    def make(settings: Settings, name: str, *, command: tuple[str, ...] = DIGEST, **environment: str) -> Worker:
        own = {"data_dir": tmp_path / name, "web_port": free_port(), "instance_id": name}
        worker = settings.worker.model_copy(update=own)
        mine = settings.model_copy(update={"worker": worker})
        environment = {"PYTHONPATH": str(ROOT), **environment}
        made.append(Worker(mine, tmp_path / f"{name}.log", command=command, environment=environment))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def ends(servers: str, topic: str) -> Mapping[int, int]:
    """The last offset with a record, of each partition that has one."""
    last: dict[int, int] = {}
    for record in read_all(servers, topic):
        last[record.partition] = max(record.offset, last.get(record.partition, -1))
    return last


def await_drained(servers: str, *workers: Worker) -> None:
    """Every record of the source is done by these workers, together."""
    due = {(str(number),): end for number, end in ends(servers, workers[0].settings.topics.events).items()}

    def drained() -> bool:
        marks: dict[tuple[str, ...], float] = {}
        for worker in workers:
            marks |= worker.metric("intent_watermark_offset")
        return all(marks.get(partition, -1) >= end for partition, end in due.items())

    until(drained, workers[-1], "all events are done")


def test_sixteen_partitions(settings: MakeSettings, guarded: Guarded, join: Join) -> None:
    made = settings(
        kafka={"bootstrap_servers": guarded.inside}, topics={"partitions": 16}, worker={"max_batch_events": 50}
    )
    publish(guarded.inside, made.topics.events, story(6000, users=2000))
    worker = join(made, "only")
    worker.start(wait=False)
    scores = Topic(guarded.inside, made.topics.scores)
    for due in (1000, 3000):
        until(partial(scores.reaches, due), worker, "the next kill is due")
        worker.kill()
        worker.start(wait=False)
    scores.close()
    await_drained(guarded.inside, worker)
    verdict, found = examine(made)
    assert {partition for partition, _ in verdict.fates} == set(range(16))
    assert found == Findings()


def test_three_brokers_with_mutual_tls_one_of_which_dies(
    settings: MakeSettings, join: Join, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    certificates = Certificates(tmp_path)
    with EmbeddedBroker(
        tmp_path_factory.mktemp("cluster"), nodes=3, heap_mb=384, properties=mutual_tls(certificates)
    ) as cluster:
        plain = inside(cluster)
        made = settings(
            kafka={
                "bootstrap_servers": cluster.bootstrap_servers,
                "security_protocol": "SSL",
                "ssl_ca_file": certificates.ca_file,
                "ssl_certificate_file": certificates.certificate_file,
                "ssl_key_file": certificates.key_file,
            },
            topics={"replication_factor": 3, "min_insync_replicas": 2},
            worker={"max_batch_events": 100},
        )
        records = list(story(4000))
        publish(plain, made.topics.events, records[:2000])
        worker = join(made, "only")
        worker.start(wait=False)
        scores = Topic(plain, made.topics.scores)
        until(partial(scores.reaches, 500), worker, "it is at work")
        leader = (
            clients.admin(made.kafka).list_topics(made.topics.events).topics[made.topics.events].partitions[0].leader
        )
        cluster.kill(leader)
        publish(plain, made.topics.events, records[2000:3000])
        until(partial(scores.reaches, 2000), worker, "it goes on with two brokers")
        cluster.restart(leader)
        publish(plain, made.topics.events, records[3000:])
        scores.close()
        await_drained(plain, worker)
        assert examine(made, servers=plain)[1] == Findings()


def test_a_worker_is_not_ready_while_a_partition_of_its_own_has_no_leader(
    settings: MakeSettings, join: Join, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nobody tells of new events there, so that no lag shows, and the other brokers answer."""
    with EmbeddedBroker(tmp_path_factory.mktemp("cluster"), nodes=3, heap_mb=384) as cluster:
        made = settings(kafka={"bootstrap_servers": cluster.bootstrap_servers}, topics={"replication_factor": 1})
        worker = join(made, "only")
        worker.start()
        events = clients.admin(made.kafka).list_topics(made.topics.events).topics[made.topics.events]
        leader = events.partitions[0].leader
        cluster.kill(leader)
        until(lambda: worker.get("readyz") is None, worker, "it is not ready")
        assert worker.get("livez") is not None
        assert worker.process is not None
        assert worker.process.poll() is None
        cluster.restart(leader)
        worker.await_ready()
        assert worker.stop() == 0


def test_scram_over_tls_with_no_more_rights_than_it_needs(settings: MakeSettings, guarded: Guarded, join: Join) -> None:
    """The whole program: its own check of the topics, the group, the transactions, the shipped model."""
    made = settings(kafka={"bootstrap_servers": guarded.inside})
    guarded.enrol("worker", "correct horse")
    for rules in rights(made, "worker").values():
        guarded.allow(rules)
    kafka = type(made.kafka).model_validate(guarded.client("worker", "correct horse"))
    publish(guarded.inside, made.topics.events, story(2000))
    worker = join(
        made.model_copy(update={"kafka": kafka}),
        "only",
        command=PROGRAM,
        INTENT_KAFKA__SASL_PASSWORD="correct horse",
    )
    worker.start(wait=False)
    await_drained(guarded.inside, worker)
    assert examine(made)[1] == Findings()
    assert worker.stop() == 0


def test_static_members_join_come_back_and_leave(settings: MakeSettings, guarded: Guarded, join: Join) -> None:
    made = settings(
        kafka={"bootstrap_servers": guarded.inside}, worker={"max_batch_events": 100, "session_timeout_s": SESSION_S}
    )
    records = list(story(4000))
    workers = [join(made, name) for name in ("a", "b", "c")]
    for number, worker in enumerate(workers):
        publish(guarded.inside, made.topics.events, records[number * 1000 : number * 1000 + 1000])
        worker.start(wait=False)
        until(lambda worker=worker: bool(watermarks(worker)), worker, "it has a partition")  # type: ignore[misc]
    await_drained(guarded.inside, *workers)
    first, second, third = workers
    rebalances = first.metric("intent_rebalances_total")
    second.kill()
    second.start(wait=False)
    until(lambda: bool(watermarks(second)), second, "it is back within its session")
    assert first.metric("intent_rebalances_total") == rebalances, "that needs none"
    assert third.stop() == 0
    publish(guarded.inside, made.topics.events, records[3000:])
    await_drained(guarded.inside, first, second)
    assert examine(made)[1] == Findings()


def watermarks(worker: Worker) -> Mapping[tuple[str, ...], float]:
    return worker.metric("intent_watermark_offset")


def test_a_source_that_is_written_in_transactions(settings: MakeSettings, guarded: Guarded, join: Join) -> None:
    """Markers and aborted records hold offsets; what was aborted is nobody's event."""
    made = settings(kafka={"bootstrap_servers": guarded.inside}, worker={"max_batch_events": 100})
    worker = join(made, "only")
    producer: Any = Producer(
        {"bootstrap.servers": guarded.inside, "transactional.id": made.topics.events, "partitioner": "murmur2_random"}
    )
    producer.init_transactions(30)
    records = story(3000)

    def transaction(*, commit: bool) -> None:
        producer.begin_transaction()
        for key, value, headers in itertools.islice(records, 50):
            producer.produce(made.topics.events, value, key, headers=list(headers.items()))
        assert producer.flush(30) == 0
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)

    for number in range(60):
        if number == 20:
            worker.start(wait=False)
        elif number == 40:
            until(lambda: bool(watermarks(worker)), worker, "it is at work")
            worker.kill()
            worker.start(wait=False)
        transaction(commit=number % 3 > 0)
    await_drained(guarded.inside, worker)
    verdict, found = examine(made)
    assert verdict.counts.total() == 2000
    assert found == Findings()
    until(
        lambda: worker.metric("intent_lag_events") == dict.fromkeys(watermarks(worker), 0.0), worker, "no lag is told"
    )


def test_a_source_with_holes_where_it_was_compacted(settings: MakeSettings, guarded: Guarded, join: Join) -> None:
    made = settings(kafka={"bootstrap_servers": guarded.inside}, worker={"max_batch_events": 20})
    topic = made.topics.events
    compact_eagerly(guarded.inside, topic)
    records = [record for record in story(3000, users=1000) if record[0] is not None]  # refused where it is compacted
    for part in batched(records, 300):
        publish(guarded.inside, topic, part)
    left = await_compacted(guarded, topic, join(made, "nobody"))
    configure(guarded.inside, topic, {"cleanup.policy": "delete"})
    assert 0 < left < len(records)
    worker = join(made, "only")
    worker.start(wait=False)
    scores = Topic(guarded.inside, made.topics.scores)
    until(partial(scores.reaches, 200), worker, "the kill is due")
    scores.close()
    worker.kill()
    worker.start(wait=False)
    await_drained(guarded.inside, worker)
    verdict, found = examine(made)
    assert verdict.counts.total() == left
    assert found == Findings()


def test_a_source_with_names_of_headers_that_are_no_text(settings: MakeSettings, guarded: Guarded, join: Join) -> None:
    """Kafka takes any bytes for them. Its librdkafka in Python shows no header of such a record.

    There are many: Python finds faster ways for what it has done for a while, and they check less.
    """
    made = settings(kafka={"bootstrap_servers": guarded.inside}, topics={"partitions": 1})
    name, count = Latin("caf\xe9"), 200
    good = [event("ann", number, START_MS + number) for number in range(count)]
    records = [*((key, body, [(name, b"1")]) for key, body, _ in good), (b"ann", b"{", [(name, b"2")])]
    asyncio.run(send_as_they_are(guarded.inside, made.topics.events, records))
    worker = join(made, "only")
    worker.start(wait=False)
    until(lambda: watermarks(worker) == {("0",): float(count)}, worker, "all are done")
    scores = read_all(guarded.inside, made.topics.scores)
    (letter,) = read_all(guarded.inside, made.topics.dead_letters)
    topic = made.topics.events.encode()
    assert [score.headers["ce_id"] for score in scores] == [b"%s-0-%d" % (topic, n) for n in range(count)]
    assert (letter.value, letter.headers["caf\ufffd"]) == (b"{", b"2")
    stretch = Stretch(partition=0, warm_from=0, start=0, end=count + 1)
    played = list(Tape(reader(made.kafka), made.topics.events, stretch))
    assert [record.value for record in played] == [*(body for _, body, _ in good), b"{"]


async def send_as_they_are(servers: str, topic: str, records: Sequence[tuple[Any, ...]]) -> None:
    """To partition 0, by a builder that asks each name for its bytes."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=1 << 20)
    await producer.start()
    batch: Any = producer.create_batch()
    batch._builder = builder(_DefaultRecordBatchBuilderPy, batch_size=1 << 20)
    for place, (key, value, headers) in enumerate(records):
        batch._builder.append(place, timestamp=now_ms(), key=key, value=value, headers=headers)
    batch._relative_offset = len(records)
    batch.close()
    await (await producer.send_batch(batch, topic, partition=0))
    await producer.stop()


def test_a_changelog_that_was_compacted_rebuilds_the_state(
    settings: MakeSettings, guarded: Guarded, join: Join, tmp_path: Path
) -> None:
    made = settings(kafka={"bootstrap_servers": guarded.inside}, worker={"max_batch_events": 100})
    compact_eagerly(guarded.inside, made.changelog)
    records = list(story(3000))
    worker = join(made, "only")
    worker.start(wait=False)
    for part in batched(records[:2000], 400):
        publish(guarded.inside, made.topics.events, part)
        await_drained(guarded.inside, worker)
    written = sum(ends(guarded.inside, made.changelog).values())
    assert await_compacted(guarded, made.changelog, worker) < written / 2
    worker.kill()
    worker.settings.worker.data_dir.rename(tmp_path / "lost")
    publish(guarded.inside, made.topics.events, records[2000:])
    worker.start(wait=False)
    await_drained(guarded.inside, worker)
    assert sum(worker.metric("intent_recovered_records_total").values()) > 0
    assert examine(made)[1] == Findings()


def batched(records: Sequence[Record], count: int) -> Iterator[Sequence[Record]]:
    return (records[at : at + count] for at in range(0, len(records), count))


def compact_eagerly(servers: str, topic: str) -> None:
    """Only closed segments are compacted, so they are short."""
    config = {"segment.ms": "50", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "1"}
    configure(servers, topic, {"cleanup.policy": "compact", **config})


def await_compacted(guarded: Guarded, topic: str, worker: Worker) -> int:
    """The log cleaner has been in every segment that is closed, and so leaves all as it is; how many records are left.

    From its own books: on a busy machine it may do nothing for long, and not be through.
    """
    (node,) = guarded.broker.nodes

    def at_rest() -> bool:
        cleaned = compacted([node.data], topic)
        open_from = {
            int(folder.name.rpartition("-")[2]): max(int(segment.stem) for segment in folder.glob("*.log"))
            for folder in node.data.glob(f"{topic}-*")
        }
        return all(cleaned.get(partition, 0) >= offset for partition, offset in open_from.items())

    until(at_rest, worker, "the cleaner has come to rest")
    return len(read_all(guarded.inside, topic))


def configure(servers: str, topic: str, config: Mapping[str, str]) -> None:
    entries = [ConfigEntry(*entry, incremental_operation=AlterConfigOpType.SET) for entry in config.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    admin = clients.admin(Kafka(bootstrap_servers=servers))
    admin.incremental_alter_configs([resource])[resource].result(15)
