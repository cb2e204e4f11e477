"""What brokers say of the ends of transactions in their logs.

Kafka acknowledges a commit once its coordinator knows of it; readers see it only behind the marks that are written to
each partition afterwards (KIP-98). Knows nothing of what the records mean, nor what to do where marks are missing.

Private parts of aiokafka 0.14.0 in use: `AIOKafkaProducer._txn_manager`, `protocol`, whose requests `DescribeProducers`
is one of (KIP-664; aiokafka has none of its own).
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    LeaderNotAvailableError,
    TopicAuthorizationFailedError,
    UnsupportedVersionError,
    for_code,
)
from aiokafka.protocol import api, types
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

UNCOMMITTED: Final = 0
COMMITTED: Final = 1
"""Isolation levels as ListOffsets has them."""

_LATEST: Final = -1
_FIRST_PAUSE_S: Final = 0.002
_LAST_PAUSE_S: Final = 0.1
_PATIENT_S: Final = 0.05
"""Marks take milliseconds. Behind that, it is asked whose they are that are missing."""
_WORTH_TELLING_S: Final = 1.0

log = structlog.get_logger(__name__)


class _DescribeProducersResponse(api.Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = types.Schema(
        ("throttle_time_ms", types.Int32),
        (
            "topics",
            types.CompactArray(
                ("topic", types.CompactString("utf-8")),
                (
                    "partitions",
                    types.CompactArray(
                        ("partition", types.Int32),
                        ("error_code", types.Int16),
                        ("error_message", types.CompactString("utf-8")),
                        (
                            "producers",
                            types.CompactArray(
                                ("producer_id", types.Int64),
                                ("producer_epoch", types.Int32),
                                ("last_sequence", types.Int32),
                                ("last_timestamp", types.Int64),
                                ("coordinator_epoch", types.Int32),
                                ("open_since", types.Int64),
                                ("tags", types.TaggedFields),
                            ),
                        ),
                        ("tags", types.TaggedFields),
                    ),
                ),
                ("tags", types.TaggedFields),
            ),
        ),
        ("tags", types.TaggedFields),
    )


class _DescribeProducersStruct(api.RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeProducersResponse
    SCHEMA = types.Schema(
        (
            "topics",
            types.CompactArray(
                ("topic", types.CompactString("utf-8")),
                ("partitions", types.CompactArray(types.Int32)),
                ("tags", types.TaggedFields),
            ),
        ),
        ("tags", types.TaggedFields),
    )


class _DescribeProducers(api.Request[_DescribeProducersStruct]):  # type: ignore[misc]  # as above
    API_KEY = 61

    def __init__(self, tps: Iterable[TopicPartition]) -> None:
        self._topics: list[Any] = [(topic, partitions, {}) for topic, partitions in _by_topic(tps).items()]

    def build(self, request_struct_class: type[_DescribeProducersStruct]) -> _DescribeProducersStruct:
        return request_struct_class(self._topics, {})


async def seen(sender: AIOKafkaProducer, last: Mapping[TopicPartition, int]) -> None:
    """Returns when nothing of what this producer wrote up to these offsets is open any more: readers of committed
    records get it as soon as it is replicated, and no transaction of others before it in the partition is open.

    Not when the coordinator says so: Kafka 4.3 leaves out marks, and says that the transaction is complete, where it
    knows no leader of a partition at that moment. Beside writers with open transactions of their own it takes
    `_PATIENT_S` longer. Never gives up by itself: the caller bounds it.
    """
    behind, begin, pause_s, told = dict(last), time.monotonic(), _FIRST_PAUSE_S, False
    while True:
        stable = await ends(sender, behind, COMMITTED)
        behind = {tp: offset for tp, offset in behind.items() if stable[tp] <= offset}
        late = time.monotonic() - begin > _PATIENT_S
        if behind and late:
            still = await _open(sender, behind)
            behind = {tp: offset for tp, offset in behind.items() if tp in still}
        if not behind:
            return
        if not told and time.monotonic() - begin > _WORTH_TELLING_S:
            told = True
            log.warning("a commit is acknowledged, its marks are not there yet", partitions=sorted(behind))
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)


async def ends(
    sender: AIOKafkaProducer, tps: Iterable[TopicPartition], isolation: Literal[0, 1]
) -> dict[TopicPartition, int]:
    """Behind the last record that such a reader gets. Asks until it is answered: the caller bounds it."""

    async def ask(leader: int, some: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        topics = [(topic, [(number, _LATEST) for number in numbers]) for topic, numbers in _by_topic(some).items()]
        answer = await sender.client.send(leader, OffsetRequest(-1, isolation, topics))
        return {
            _checked(TopicPartition(topic, number), error): offset
            for topic, partitions in answer.topics
            for number, error, _, offset in partitions
        }

    return await _patiently(sender, tps, ask)


async def _open(sender: AIOKafkaProducer, tps: Iterable[TopicPartition]) -> Collection[TopicPartition]:
    """Of these, those in which a transaction of this producer has no end; all, where brokers do not tell. As `ends`."""
    mine = sender._txn_manager.producer_id  # noqa: SLF001
    tps = list(tps)

    async def ask(leader: int, some: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        answer = await sender.client.send(leader, _DescribeProducers(some))
        return {
            tp: since
            for topic, partitions, _ in answer.topics
            for number, error, _, producers, _ in partitions
            for tp in [_checked(TopicPartition(topic, number), error)]
            for producer, *_, since, _ in producers
            if producer == mine and since >= 0
        }

    try:
        return await _patiently(sender, tps, ask)
    except (TopicAuthorizationFailedError, IncompatibleBrokerVersion, UnsupportedVersionError) as error:
        _tell_blind(repr(error))
        return set(tps)


@cache
def _tell_blind(error: str) -> None:
    """Once, however often it is asked."""
    log.warning("whose marks are missing cannot be told: it takes READ on the topic, and Kafka 2.8", error=error)


async def _patiently(
    sender: AIOKafkaProducer,
    tps: Iterable[TopicPartition],
    ask: Callable[[int, Sequence[TopicPartition]], Awaitable[dict[TopicPartition, int]]],
) -> dict[TopicPartition, int]:
    """Ask the leader of each, again while brokers are away or change roles."""
    while True:
        try:
            answers = await asyncio.gather(*(ask(leader, some) for leader, some in _by_leader(sender, tps).items()))
        except KafkaError as error:
            if not error.retriable:
                raise
            for topic in _by_topic(tps):
                await sender.partitions_for(topic)  # of one that it has not written to yet, it knows no leader
            await sender.client.force_metadata_update()
            await asyncio.sleep(_LAST_PAUSE_S)
        else:
            return {tp: found for answer in answers for tp, found in answer.items()}


def _by_leader(sender: AIOKafkaProducer, tps: Iterable[TopicPartition]) -> dict[int, list[TopicPartition]]:
    found: defaultdict[int, list[TopicPartition]] = defaultdict(list)
    for tp in tps:
        leader = sender.client.cluster.leader_for_partition(tp)
        if leader in {None, -1}:
            raise LeaderNotAvailableError(tp)
        found[leader].append(tp)
    return found


def _by_topic(tps: Iterable[TopicPartition]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for tp in tps:
        found[tp.topic].append(tp.partition)
    return found


def _checked(tp: TopicPartition, error: int) -> Any:
    if error:
        raise for_code(error)(tp)
    return tp
