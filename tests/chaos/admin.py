"""What an operator does to topics, by mistake or on purpose; patient while brokers are away."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from worker.errors import IntentError
from worker.kafka import topics
from worker.settings import Settings

_PATIENCE_S: Final = 120.0
_ALLOWED: Final = AclOperation.ALL, AclPermissionType.ALLOW
_DENIED: Final = AclOperation.WRITE, AclPermissionType.DENY
_ASK_S: Final = 5.0
_POLL_S: Final = 0.1

AUTHORIZER: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
"""Server properties under which `forbid` works: everyone may do everything until told otherwise. For one node: several
would ask each other for leave before they know of any rule."""


class Admin:
    """Each call returns when it is done, however long brokers are away meanwhile (up to 2 min)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = AdminClient(
            {
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "log_level": 0,
                "socket.timeout.ms": 3000,
                "reconnect.backoff.max.ms": 200,
            }
        )

    def configure(self, topic: str, **config: str) -> None:
        """Set topic configs; underscores stand for dots."""
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        self._ask(lambda: self._client.incremental_alter_configs([resource], request_timeout=_ASK_S).values())

    def delete(self, topic: str) -> None:
        """Delete a topic; returns when no broker lists it."""
        self._ask(lambda: self._client.delete_topics([topic], operation_timeout=_ASK_S).values())
        _patiently(lambda: topic not in self._client.list_topics(timeout=_ASK_S).topics)

    def create(self) -> None:
        """Whatever of the deployment's topics is missing."""
        _patiently(lambda: bool(topics.create(self._settings)))

    def leader(self, topic: str, partition: int) -> int:
        """The node that leads the partition; -1 for none."""
        leaders: list[int] = []

        def ask() -> bool:
            partitions = self._client.list_topics(topic, timeout=_ASK_S).topics[topic].partitions
            if partition in partitions:
                leaders.append(partitions[partition].leader)
            return bool(leaders)

        _patiently(ask)
        return leaders[-1]

    def in_sync(self, topic: str, replicas: int) -> bool:
        """Whether every partition has so many replicas in sync."""
        found = self._client.list_topics(topic, timeout=_ASK_S).topics[topic].partitions
        return all(len(partition.isrs) >= replicas for partition in found.values())

    def forbid(self, topic: str) -> None:
        """Nobody may write to it; reading is never interrupted.

        A rule on a topic ends the freedom to do what no rule is about: what remains free is allowed first.
        """
        for rule in (_ALLOWED, _DENIED):
            acls = [AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*", *rule)]
            self._ask(lambda acls=acls: self._client.create_acls(acls, request_timeout=_ASK_S).values())  # type: ignore[misc]  # bound per rule

    def permit(self, topic: str) -> None:
        """Take `forbid` back; what it allowed by name stays allowed, for another `forbid` may be under way."""
        acls = [AclBindingFilter(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*", *_DENIED)]
        self._ask(lambda: self._client.delete_acls(acls, request_timeout=_ASK_S).values())

    def _ask(self, call: Callable[[], Iterable[Any]]) -> None:
        def ask() -> bool:
            for future in call():
                future.result(_ASK_S)
            return True

        _patiently(ask)


def compacted(data: Iterable[Any], topic: str) -> Mapping[int, int]:
    """Partition to the offset up to which the log cleaner has been there, from the nodes' data folders."""
    cleaned: dict[int, int] = {}
    for folder in data:
        path = folder / "cleaner-offset-checkpoint"
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            name, _, place = line.partition(" ")
            if name == topic:
                partition, offset = map(int, place.split())
                cleaned[partition] = max(offset, cleaned.get(partition, 0))
    return cleaned


def _patiently(attempt: Callable[[], bool]) -> None:
    """Again until it holds; the last error when it never does."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if attempt():
                return
            last: Exception = IntentError("the brokers did not do as they were asked")
        except (KafkaException, IntentError, TimeoutError) as error:
            last = error
        if time.monotonic() > deadline:
            raise last
        time.sleep(_POLL_S)
