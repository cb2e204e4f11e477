"""A broker that refuses what the worker needs: the worker ends non-zero, uncommitted and in bounded time, and says what
was refused; once it is allowed, nothing is missing.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from tests.chaos.audit import Findings
from tests.chaos.outcome import examine
from tests.conftest import MakeSettings
from tests.integration.deployment import ROOT, Worker, publish, read_all, until
from tests.integration.secured import Guarded, rights
from tests.integration.stories import event
from worker.dlq.letters import parse
from worker.dlq.redrive import Redriver
from worker.errors import IntentError, SettingError
from worker.kafka import clients, topics
from worker.ports import free_port
from worker.replay import plan
from worker.replay.lookup import look_up
from worker.replay.plan import EARLIEST, LATEST
from worker.replay.tape import Played
from worker.settings import Kafka, Settings
from worker.shop.outgoing import Outgoing
from worker.shop.publish import Publisher, connect

pytestmark = [pytest.mark.broker, pytest.mark.slow]

PASSWORD = "correct horse"
START_MS = 1_760_000_000_000
EVENTS = 400
BOUND_S = 40
"""A transaction's limit, a start and a busy machine."""


def stands_before(settings: Settings, folder: Path, guarded: Guarded, user: str) -> Worker:
    """A worker of this user, not started, with events waiting."""
    kafka = Kafka.model_validate(guarded.client(user, PASSWORD))
    own = settings.worker.model_copy(
        update={"data_dir": folder / "state", "web_port": free_port(), "instance_id": "only"}
    )
    publish(
        guarded.inside,
        settings.topics.events,
        (event(f"user-{number % 20}", number, START_MS + number * 1000) for number in range(EVENTS)),
    )
    return Worker(
        settings.model_copy(update={"kafka": kafka, "worker": own}),
        folder / "worker.log",
        command=(sys.executable, "-m", "tests.chaos.digest"),
        environment={"PYTHONPATH": str(ROOT), "INTENT_KAFKA__SASL_PASSWORD": PASSWORD},
    )


def refused(worker: Worker) -> str:
    """Starts it and awaits its end; what its log says is fatal, or the sentence with which it did not start."""
    worker.start(wait=False)
    assert worker.process is not None
    assert worker.process.wait(BOUND_S) == 1
    lines = worker.log.read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    fatal = [f"{line['why']} {line['error']}" for line in told if line["level"] == "critical"]
    return " ".join(fatal or lines[-1:])


def comes_through(worker: Worker, settings: Settings) -> None:
    worker.start(wait=False)

    def drained() -> bool:
        marks = worker.metric("intent_watermark_offset")
        return sum(marks.values()) + len(marks) == EVENTS

    until(drained, worker, "all events are done")
    assert worker.stop() == 0
    assert examine(settings)[1] == Findings()


NAMES: dict[str, Callable[[Settings], str]] = {
    "scores": lambda settings: settings.topics.scores,
    "changelog": lambda settings: settings.changelog,
    "events": lambda settings: settings.topics.events,
    "transactions": lambda settings: f"{settings.worker.application_id}-",
    "group": lambda settings: settings.worker.application_id,
}


@pytest.mark.parametrize("right", NAMES)
def test_a_right_that_is_missing_ends_the_worker_by_name(
    settings: MakeSettings, guarded: Guarded, tmp_path: Path, right: str
) -> None:
    user = f"user-without-{right}"
    guarded.enrol(user, PASSWORD)
    made = settings(kafka={"bootstrap_servers": guarded.inside}, worker={"transaction_timeout_s": 10})
    rules = rights(made, user)
    for name in rules.keys() - {right}:
        guarded.allow(rules[name])
    worker = stands_before(made, tmp_path, guarded, user)
    try:
        assert NAMES[right](made) in refused(worker)
        assert read_all(guarded.inside, made.topics.scores) == []
        guarded.allow(rules[right])
        comes_through(worker, made)
    finally:
        worker.close()


def test_a_topic_that_takes_no_record_of_a_score_s_size_ends_the_worker_by_name(
    settings: MakeSettings, guarded: Guarded, tmp_path: Path
) -> None:
    user = "user-with-too-much-to-say"
    guarded.enrol(user, PASSWORD)
    made = settings(kafka={"bootstrap_servers": guarded.inside}, worker={"transaction_timeout_s": 10})
    for rules in rights(made, user).values():
        guarded.allow(rules)
    set_max_message_bytes(guarded, made.topics.scores, 100)
    worker = stands_before(made, tmp_path, guarded, user)
    try:
        assert made.topics.scores in refused(worker)
        assert read_all(guarded.inside, made.topics.scores) == []
        set_max_message_bytes(guarded, made.topics.scores, 2**20)
        comes_through(worker, made)
    finally:
        worker.close()


def test_a_wrong_password_is_told_from_a_broker_that_is_down(
    settings: MakeSettings, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.enrol("user-who-forgets", PASSWORD)
    made = settings().model_copy(
        update={"kafka": Kafka.model_validate(guarded.client("user-who-forgets", "wrong horse"))}
    )
    monkeypatch.setattr(topics, "_TIMEOUT_S", 5.0)
    monkeypatch.setattr(plan, "ASK_TIMEOUT_S", 5.0)
    with pytest.raises(IntentError, match=r"invalid credentials.*; check .*the user and the password"):
        topics.check(made)
    with pytest.raises(IntentError, match=r"invalid credentials.*; check .*the user and the password"):
        look_up(made.kafka, made.topics.events, EARLIEST, LATEST, warmup_ms=0, named="setting `topics.events`")


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_listener_that_hangs_up_on_another_protocol_leads_to_its_setting(
    settings: MakeSettings, guarded: Guarded, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    client = guarded.client("nobody", PASSWORD) | {"security_protocol": protocol}
    made = settings().model_copy(update={"kafka": Kafka.model_validate(client)})
    monkeypatch.setattr(topics, "_TIMEOUT_S", 5.0)
    with pytest.raises(IntentError, match=r"does not answer .*check `kafka\.security_protocol`"):
        topics.check(made)


def test_a_topic_that_may_not_be_seen_is_told_from_one_that_is_missing(
    settings: MakeSettings, guarded: Guarded
) -> None:
    """Kafka leaves it out of its list."""
    user = "user-without-eyes"
    guarded.enrol(user, PASSWORD)
    made = settings(kafka={"bootstrap_servers": guarded.inside})
    rules = rights(made, user)
    for name in rules.keys() - {"events"}:
        guarded.allow(rules[name])
    own = made.model_copy(update={"kafka": Kafka.model_validate(guarded.client(user, PASSWORD))})
    with pytest.raises(IntentError, match=rf"does not let this user describe the topic {made.topics.events}; allow it"):
        topics.check(own)
    with pytest.raises(SettingError, match=rf"{made.topics.events} \(setting `topics.events`\) .*authorization failed"):
        connect(own)
    guarded.allow(rules["events"])
    assert topics.check(own) == []


def set_max_message_bytes(guarded: Guarded, topic: str, count: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(count), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = clients.admin(Kafka(bootstrap_servers=guarded.inside))
    admin.incremental_alter_configs([resource])[resource].result(15)


def test_who_may_write_nowhere_is_told_so_in_a_sentence(settings: MakeSettings, guarded: Guarded) -> None:
    """Such a user's producers get no id, and are of no use at all."""
    user = "user-who-only-reads"
    guarded.enrol(user, PASSWORD)
    made = settings(kafka={"bootstrap_servers": guarded.inside})
    guarded.allow(rights(made, user)["events"])
    own = made.model_copy(update={"kafka": Kafka.model_validate(guarded.client(user, PASSWORD))})
    key, value, _ = event("ann", 1, START_MS)
    publisher = Publisher(connect(own), made.topics.events)
    publisher.run([Outgoing(None, key, value)] * 3)
    with pytest.raises(IntentError, match=rf"{made.topics.events} .*uthoriz"):
        publisher.finish()
    letter = parse(Played(0, START_MS, key, value, []), partition=0)
    letters = [dataclasses.replace(letter, topic=made.topics.events)] * 3
    with pytest.raises(IntentError, match=rf"{made.topics.events} .*uthoriz"):
        Redriver(own.kafka, dead_letters=made.topics.dead_letters).send(letters)
