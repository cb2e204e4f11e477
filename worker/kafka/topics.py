"""The topics of a deployment: what each must be, making them, and naming each difference to what stands on the brokers.

Owns partitions, retention and compaction. Knows nothing of what the records mean. Every topic has the same number of
partitions: a score, a dead letter and a window stay in the partition of the event they come from.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, TopicMetadata

from worker.errors import IntentError, SettingError
from worker.kafka import clients
from worker.settings import Settings

_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.05
_ASK_AGAIN_S: Final = 2.0
KAFKAS_ALPHABET: Final = str.maketrans("+/", "-_")
"""Of ids, for which librdkafka has another."""
_NO_ID: Final = "A" * 22  # from brokers before 2.8, which have none
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_MAX_MESSAGE_BYTES: Final = 2**20 + 12  # Kafka's own default: a record of 1 MiB and its batch header
# A dead letter is the whole record that failed and why. A record that came well compressed may leave much larger.
_MAX_DEAD_LETTER_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic must be."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Changelog:
    """What decides whether state on a worker's disk may be used with the changelog topic that stands there now."""

    topic_id: str
    """Of this very topic: one created anew under its name has another."""
    tombstones_ms: int
    """How long a tombstone stays readable. State that is older misses users erased or expired since."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as declared. `what` is `topic`, `partitions`, `replication factor` or a config's name."""

    topic: str
    what: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what} is {self.found}, wanted {self.wanted}"

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.what == "topic":
            return "`intent topics create`"
        if self.what == "partitions":  # more of them would part users from their windows
            return f"set `topics.partitions` to {self.found}, or move to new topics: deploy/README.md, More partitions"
        return f"change it to {self.wanted} with Kafka's own tools"


def declared(settings: Settings) -> tuple[Topic, ...]:
    """Every topic that the worker reads or writes. Raises `SettingError` where two of them are one.

    A transaction has one list of records for each topic: of two of one name, that of the former would be lost; and a
    dead letter among the events would come back as another one, for ever.
    """
    topics = settings.topics
    uses: dict[str, str] = {settings.changelog: "changelog of `worker.application_id`"}
    for use in ("events", "scores", "latest", "dead_letters", "shadow"):
        name = getattr(topics, use)
        if name in uses:
            raise SettingError(
                f"the setting `topics.{use}` is {name!r}, and so is the {uses[name]}; give each a topic of its own"
            )
        uses[name] = f"setting `topics.{use}`"
    retention_ms = str(topics.retention_hours * _HOUR_MS)

    def topic(name: str, **config: str) -> Topic:
        common = {
            "min.insync.replicas": str(topics.min_insync_replicas),
            "compression.type": "producer",  # the brokers keep what the producer sent, and spend no time on it
            "max.message.bytes": str(_MAX_MESSAGE_BYTES),
        }
        named = {name.replace("_", "."): value for name, value in config.items()}
        return Topic(name, topics.partitions, topics.replication_factor, {**common, **named})

    kept = {"cleanup_policy": "delete", "retention_ms": retention_ms}
    # The brokers delete by the records' times: what a worker whose clock stood at 1970 had published was gone within
    # minutes. All that a worker writes has the brokers' time, the changelog too: `stream.hanging` compares them. That
    # of an event is its producer's, and says how far ahead the event may be.
    ours = {"message_timestamp_type": "LogAppendTime"}
    compacted = {
        **ours,
        "cleanup_policy": "compact",
        "min_cleanable_dirty_ratio": "0.1",
        "segment_bytes": str(64 * 2**20),  # only closed segments are compacted, and a start reads all that is not
        "max_compaction_lag_ms": str(_DAY_MS),  # what a user had erased is gone from the disk within a day
        # A reader that was away for longer than this may miss that a key was deleted.
        "delete_retention_ms": str(7 * _DAY_MS),
    }
    return (
        topic(topics.events, **kept),
        topic(topics.scores, **kept, **ours),
        topic(topics.latest, **compacted),
        topic(topics.dead_letters, **kept, **ours, max_message_bytes=str(_MAX_DEAD_LETTER_BYTES)),
        topic(topics.shadow, **kept, **ours),
        topic(settings.changelog, **compacted),
    )


def create(settings: Settings) -> dict[str, bool]:
    """Creates what is missing: topic name → whether this call made it. What stands already is not touched.

    Returns when each new topic has a leader for every partition. Idempotent. Raises `IntentError` when the brokers do
    not answer or refuse.
    """
    made = {}
    with _brokers(settings) as admin:
        new = [
            NewTopic(topic.name, topic.partitions, topic.replication_factor, config=dict(topic.config))
            for topic in declared(settings)
        ]
        for name, done in admin.create_topics(new, operation_timeout=_TIMEOUT_S).items():
            try:
                done.result(_TIMEOUT_S)
                made[name] = True
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise IntentError(f"the topic {name} cannot be created: {error.args[0].str()}") from None
                made[name] = False
        _await_leaders(admin, {topic.name: topic.partitions for topic in declared(settings) if made[topic.name]})
    return made


def check(settings: Settings) -> list[Difference]:
    """Each difference between the declarations and the brokers; empty when all is as declared. Changes nothing.

    Raises `IntentError` when the brokers do not answer, or do not let this user look.
    """
    wanted = declared(settings)
    with _brokers(settings) as admin:
        found = admin.list_topics(timeout=_TIMEOUT_S).topics
        # Also of those not listed: Kafka leaves out what this user may not see, and says so only to who asks by name.
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic.name) for topic in wanted]
        configs = {}
        for resource, answer in admin.describe_configs(resources).items():
            try:
                configs[resource.name] = {name: entry.value for name, entry in answer.result(_TIMEOUT_S).items()}
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise _unless_refused(resource.name, error) from None
    differences = []
    for topic in wanted:
        if topic.name not in configs or topic.name not in found:  # or made or deleted in between
            differences.append(Difference(topic.name, "topic", "missing", "created"))
        else:
            differences += _differences(topic, found[topic.name], configs[topic.name])
    return differences


def changelog(settings: Settings) -> Changelog:
    """The changelog topic as it is on the brokers. Raises `IntentError` when they do not answer."""
    name = settings.changelog
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    with _brokers(settings) as admin:
        try:
            topic_id = _id(admin, name)
            config = admin.describe_configs([resource])[resource].result(_TIMEOUT_S)
        except KafkaException as error:
            raise _unless_refused(name, error) from None
    return Changelog(topic_id, int(config["delete.retention.ms"].value or 0))


def events_id(settings: Settings) -> str:
    """The id of the events topic that stands there now (KIP-516); one created anew under its name has another. Empty
    where the brokers give none.

    Blocks for most of `worker.request_timeout_s` at most, while the topic is not there or nobody answers: a broker that
    has just come up lists no topics for a moment, and who is asked is a controller that may have just gone. Raises
    `IntentError` when that does not end.
    """
    name, deadline = settings.topics.events, time.monotonic() + 0.9 * settings.worker.request_timeout_s
    with _brokers(settings) as admin:
        while True:
            try:
                topic_id = _id(admin, name, timeout_s=_ASK_AGAIN_S)
            except KafkaException as error:
                code = error.args[0].code()
                if code != KafkaError.TOPIC_AUTHORIZATION_FAILED and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise IntentError(f"the topic {name} is not there; `intent topics create` makes it") from None
                raise _unless_refused(name, error) from None
            return "" if topic_id == _NO_ID else topic_id


def _id(admin: AdminClient, topic: str, *, timeout_s: float = _TIMEOUT_S) -> str:
    """As Kafka's own tools write it."""
    described = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)[topic].result(_TIMEOUT_S)
    return str(described.topic_id).translate(KAFKAS_ALPHABET)


def _unless_refused(topic: str, error: KafkaException) -> Exception:
    """The error itself, or the sentence for one that says what the user lacks."""
    if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return error
    return IntentError(
        f"Kafka does not let this user describe the topic {topic}; allow it Describe and DescribeConfigs"
    )


def _differences(topic: Topic, found: TopicMetadata, config: Mapping[str, str | None]) -> Iterator[Difference]:
    if len(found.partitions) != topic.partitions:
        yield Difference(topic.name, "partitions", str(len(found.partitions)), str(topic.partitions))
    replicas = min(len(partition.replicas) for partition in found.partitions.values())
    if replicas != topic.replication_factor:
        yield Difference(topic.name, "replication factor", str(replicas), str(topic.replication_factor))
    for name, wanted in topic.config.items():
        if config.get(name) != wanted:
            yield Difference(topic.name, name, str(config.get(name)), wanted)


def _await_leaders(admin: AdminClient, partitions: Mapping[str, int]) -> None:
    """A topic just made is known to the controller first and to the brokers a moment later."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        found = admin.list_topics(timeout=_TIMEOUT_S).topics
        if all(
            name in found and sum(partition.leader >= 0 for partition in found[name].partitions.values()) == count
            for name, count in partitions.items()
        ):
            return
        time.sleep(_POLL_S)
    raise IntentError(f"the new topics had no leaders after {_TIMEOUT_S:.0f} s: {', '.join(partitions)}")


@contextmanager
def _brokers(settings: Settings) -> Iterator[AdminClient]:
    """An admin client whose failures to reach the brokers are one sentence."""
    trouble = clients.Trouble()
    admin = clients.admin(settings.kafka, trouble)
    try:
        yield admin
    except (KafkaException, TimeoutError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        raise trouble.unanswered(admin, settings.kafka, reason) from None
