"""For the same stretch of a topic a replay gives the live worker's scores: same ids, digests and values."""

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from tests.conftest import MakeSettings
from tests.integration.commands import called
from tests.integration.conftest import Deploy
from tests.integration.deployment import Worker, publish, read_all, until, variables
from tests.integration.test_worker import drained, simulated
from worker import cli, scores
from worker.kafka import topics
from worker.replay.lookup import look_up
from worker.replay.plan import LATEST, Offsets, Plan, Stretch
from worker.replay.run import play
from worker.scores import HORIZONS, Score
from worker.scoring.forward import TOLERANCE
from worker.settings import Settings

pytestmark = pytest.mark.broker

EVENTS = 4_000
CLOSE = TOLERANCE + 1e-6  # what the engine promises across micro-batches, and the rounding of a published score


def replayed(settings: Settings, out: Path, *options: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The report, and the rows by score id."""
    arguments = ["replay", "--out", str(out), "--json", *options]
    done = CliRunner(env=dict(variables(settings))).invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    rows = pq.read_table(out).to_pylist()
    by_id = {row["score_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return json.loads(done.stdout), by_id


def live(worker: Worker) -> tuple[dict[str, Score], dict[str, int]]:
    """What readers saw of a finished worker: scores by id, and its counts by fate."""
    settings = worker.settings
    records = read_all(settings.kafka.bootstrap_servers, settings.topics.scores)
    published = [scores.decode(record.value or b"") for record in records]
    fates = {labels[0]: round(count) for labels, count in worker.metric("intent_events_total").items()}
    return {score.score_id: score for score in published}, {fate: count for fate, count in fates.items() if count}


def assert_same(row: dict[str, Any], score: Score) -> None:
    assert row["window_digest"] == score.window.digest
    assert row["window_events"] == score.window.events
    assert (row["event_id"], row["user_id"], row["session_id"]) == (score.event_id, score.user_id, score.session_id)
    assert scores.rfc3339(round(row["event_time"].timestamp() * 1000)) == score.event_time
    assert (row["model_name"], row["model_version"]) == (score.model.name, score.model.version)
    for horizon in HORIZONS:
        assert row[horizon] == pytest.approx(getattr(score.intent, horizon), abs=CLOSE)
    assert row["risk"] == pytest.approx(score.risk.score, abs=CLOSE)
    assert tuple(row["risk_reasons"]) == score.risk.reasons
    assert [reason["code"] for reason in row["reasons"]] == [
        reason["code"] for reason in msgspec.to_builtins(score.reasons)
    ]


def test_a_replay_gives_the_live_scores(deploy: Deploy, tmp_path: Path) -> None:
    worker = deploy()
    settings = worker.settings
    total = publish(settings.kafka.bootstrap_servers, settings.topics.events, itertools.islice(simulated(), EVENTS))
    worker.start()
    until(lambda: drained(worker, total), worker, "all events are done")
    published, fates = live(worker)
    assert worker.stop() == 0

    report, rows = replayed(settings, tmp_path / "all.parquet")
    assert rows.keys() == published.keys()
    for score_id, row in rows.items():
        assert_same(row, published[score_id])
    assert report["fates"] == fates
    assert report["records"] == {"warmed_up": 0, "read": total}

    # The second half alone, with windows warmed up by the first, gives the second half of the same.
    half = {number: edges["end"] // 2 for number, edges in report["partitions"].items()}
    begin = ",".join(f"{number}:{offset}" for number, offset in half.items())
    later, some = replayed(settings, tmp_path / "half.parquet", "--from", begin, "--state", "disk")
    wanted = {
        score_id for score_id, score in published.items() if score.source.offset >= half[str(score.source.partition)]
    }
    assert some.keys() == wanted
    for score_id, row in some.items():
        assert_same(row, published[score_id])
    assert later["records"]["warmed_up"] == sum(half.values())

    # Without, windows start empty: the same records are read, other digests come out.
    _, cold = replayed(settings, tmp_path / "cold.parquet", "--from", begin, "--warmup", "0")
    assert any(
        row["window_digest"] != some[score_id]["window_digest"] for score_id, row in cold.items() if score_id in some
    )

    assert_no_trace(settings)


def assert_no_trace(settings: Settings) -> None:
    """A replay joins no group and commits nothing."""
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    groups = {group.group_id for group in admin.list_consumer_groups().result(10).valid}
    assert "intent-replay" not in groups
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "intent-replay"})
    asked = [TopicPartition(settings.topics.events, number) for number in range(settings.topics.partitions)]
    assert all(partition.offset < 0 for partition in consumer.committed(asked, timeout=10))
    consumer.close()


@pytest.mark.parametrize("when", ["once the offsets are known", "while it is read"])
def test_of_a_topic_that_is_made_anew_meanwhile_nothing_is_written(
    settings: MakeSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    made = settings()
    topic = made.topics.events
    publish(made.kafka.bootstrap_servers, topic, itertools.islice(simulated(), 40))

    def make_anew() -> None:
        admin = AdminClient({"bootstrap.servers": made.kafka.bootstrap_servers})
        admin.delete_topics([topic])[topic].result(10)
        while not topics.create(made)[topic]:  # its name is free a moment later
            pass
        publish(made.kafka.bootstrap_servers, topic, itertools.islice(simulated(), 40))

    def looked_up(*arguments: Any, **options: Any) -> Plan:
        plan = look_up(*arguments, **options)
        if plan.stretches:  # the offsets of what is to be read
            make_anew()
        return plan

    async def played(*arguments: Any, **options: Any) -> None:
        await play(*arguments, **options)
        make_anew()

    if when == "while it is read":
        monkeypatch.setattr("worker.replay.run.play", played)
    else:
        monkeypatch.setattr("worker.replay.lookup.look_up", looked_up)
    out = tmp_path / "scores" / "f.parquet"
    out.parent.mkdir()
    done = called(capsys, monkeypatch, made, "replay", "--out", out)
    assert (done.code, done.out) == (1, "")
    assert f"the topic {topic} was deleted and created anew while it was read" in done.err
    assert list(out.parent.iterdir()) == []


def test_a_topic_that_is_not_there_is_told_at_once(
    settings: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id would be waited for."""
    monkeypatch.setattr(topics, "events_id", lambda _: pytest.fail("the id was asked for"))
    done = called(capsys, monkeypatch, settings(), "replay", "--topic", "nowhere", "--out", tmp_path / "f.parquet")
    assert (done.code, done.out) == (2, "")
    assert "the topic nowhere (--topic) is not there" in done.err


def test_a_range_of_markers_and_aborted_records_has_no_warm_up(settings: MakeSettings) -> None:
    made = settings()
    servers, topic = made.kafka.bootstrap_servers, made.topics.events
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions()
    for end in (producer.commit_transaction, producer.abort_transaction, None):
        producer.begin_transaction()
        producer.produce(topic, b"{}", b"ann", partition=0)
        producer.flush()  # not acknowledged before the markers of the transaction before are written
        if end is not None:
            end()
    # Offsets: the committed record, its marker, the aborted record, its marker, and what is not readable yet.
    for start in range(4):
        plan = look_up(made.kafka, topic, Offsets({0: start}), LATEST, warmup_ms=1000, named="setting `topics.events`")
        assert plan.stretches == (Stretch(partition=0, warm_from=start, start=start, end=4),)
    producer.abort_transaction()
