"""The challenger's scores: the windows of a share of the users, scored once more on what capacity is left.

Begins after the champion's transaction has committed, and is no part of it: whatever fails or waits here is dropped and
counted, never waited for. A shadow record comes at most once for a score, and only where that score was published.

Owns one thread with a bounded queue and a producer of its own. Knows neither transactions nor the event loop.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from typing import Any, Final, NamedTuple

import numpy as np
import structlog
import xxhash
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker import pipeline
from worker.fold import Updated
from worker.kafka import clients
from worker.ops.metrics import Metrics
from worker.scores import SHADOW_TYPE, Rating
from worker.settings import Settings
from worker.stream import output

MAX_WAITING: Final = 4096
"""Windows that may wait for the device to be free; those that come then are dropped."""

CHUNK: Final = 64
"""Windows offered at once; the engine makes smaller batches of them where that is better for the champion."""

_AGAIN_S: Final = 0.005  # until a device that was busy is asked again
_REPORTS_S: Final = 0.2  # between two looks at what Kafka has acknowledged
_DELIVERY_S: Final = 15.0  # then a record that a broker has not taken is given up
_FLUSH_S: Final = 2.0
_SEED: Final = 0x5AD0  # else the share would be the same users' as of whoever else hashes user ids so

log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    """A window that the champion has scored."""

    partition: int
    update: Updated
    rating: Rating


def chosen(user: bytes, share: float) -> bool:
    """Whether the user is among the share. The same in every process, and a larger share only adds users."""
    return xxhash.xxh3_64_intdigest(user, _SEED) < share * 2**64


class Shadow:
    """`engine` is a `scoring.engine.Engine`. `now` is the time of scoring, RFC 3339."""

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Any,
        metrics: Metrics,
        now: Callable[[], str],
        new_producer: Callable[[Settings], Producer] | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._now = now
        self._new_producer = new_producer or producer
        self._producer: Producer | None = None
        self._waiting: deque[_Waiting] = deque()
        self._work = threading.Condition()
        self._challenged = False
        self._closed = False
        self._refused = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin. The thread is a daemon: a process that must end leaves what waits."""
        self._thread.start()

    def challenge(self, there: bool) -> None:  # noqa: FBT001 - the reloader's callback
        """Whether there is a challenger from now on. Any thread."""
        with self._work:
            self._challenged = there
            if not there:
                self._drop("gone", len(self._waiting))
                self._waiting.clear()

    def consider(self, partition: int, updates: Sequence[Updated], ratings: Sequence[Rating]) -> None:
        """Committed scores; those of the share are queued. Never blocks, never raises."""
        if not self._challenged:
            return
        share = self._settings.model.shadow_share
        mine = [
            _Waiting(partition, update, rating)
            for update, rating in zip(updates, ratings, strict=True)
            if chosen(update.record.key or b"", share)
        ]
        if not mine:
            return
        with self._work:
            room = max(0, MAX_WAITING - len(self._waiting))
            self._waiting.extend(mine[:room])
            self._work.notify()
        self._drop("busy", len(mine) - room)

    def close(self) -> None:
        """Ends the thread; what Kafka has been given has `_FLUSH_S` to be acknowledged. What waits is left."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join(2 * _FLUSH_S)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except Exception as error:  # a shadow must not end, and must not be noticed, for whatever went wrong
                log.warning("shadow scores were dropped", error=repr(error))
        if self._producer is not None:
            with suppress(KafkaException):
                self._producer.flush(_FLUSH_S)

    def _turn(self) -> None:
        """One offer, or one wait."""
        self._hear()
        with self._work:
            if not self._waiting:
                self._work.wait(_REPORTS_S)
            some = [self._waiting.popleft() for _ in range(min(CHUNK, len(self._waiting)))]
        if not some:
            return
        try:
            answer: Future[pipeline.EngineScores] | None = self._engine.offer([one.update.window for one in some])
            if answer is None:
                self._put_back(some)
                return
            ratings = pipeline.ratings(self._answered(answer))
            self._publish(some, ratings)
        except CancelledError:  # the challenger has gone, or the process is about to
            self._drop("gone", len(some))
            return
        except Exception:
            self._drop("failed", len(some))
            raise
        self._compare(some, ratings)

    def _answered(self, answer: "Future[pipeline.EngineScores]") -> pipeline.EngineScores:
        """Waits as long as the champion keeps the device, which has no bound: what comes meanwhile may find no room."""
        while not answer.done():
            wait([answer], _REPORTS_S)  # does not hear of a cancellation, hence the loop's own question
            if self._closed:
                answer.cancel()
            self._hear()
        return answer.result()

    def _put_back(self, some: Sequence[_Waiting]) -> None:
        """The device is busy: ask again in a moment."""
        with self._work:
            if self._challenged:
                self._waiting.extendleft(reversed(some))
            else:
                self._drop("gone", len(some))
            self._work.wait_for(lambda: self._closed, _AGAIN_S)

    def _publish(self, some: Sequence[_Waiting], ratings: Iterable[Rating]) -> None:
        settings, scored_at = self._settings, self._now()
        topic, to = settings.topics.events, settings.topics.shadow
        # CloudEvents tells events apart by source and id, and the id is the champion's
        source = f"{settings.worker.application_id}/shadow"
        sender, told = self._sender(), self._delivered
        for (partition, update, _), rating in zip(some, ratings, strict=True):
            record = output.score(
                update, rating, topic=topic, partition=partition, source=source, scored_at=scored_at, type_=SHADOW_TYPE
            )
            try:
                sender.produce(to, record.value, record.key, partition, headers=[*record.headers], on_delivery=told)
            except (BufferError, KafkaException) as error:
                self._refuse(str(error))

    def _compare(self, some: Sequence[_Waiting], ratings: Sequence[Rating]) -> None:
        ours = np.array([one.rating.intent.purchase_24h for one in some])
        theirs = np.array([rating.intent.purchase_24h for rating in ratings])
        self._metrics.shadow_difference.observe(np.abs(ours - theirs))

    def _sender(self) -> Producer:
        if self._producer is None:
            self._producer = self._new_producer(self._settings)
        return self._producer

    def _hear(self) -> None:
        """Of what Kafka has acknowledged; or that the client is of no further use: the next scores get another."""
        if self._producer is None:
            return
        try:
            self._producer.poll(0)
        except KafkaException as error:  # it tells so once, and by no record's delivery
            self._refuse(error.args[0].str(), len(self._producer))
            self._producer = None

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self._refused = False
            self._metrics.shadow_scores_total.inc()
        else:
            self._refuse(error.str())

    def _refuse(self, reason: str, count: int = 1) -> None:
        """One line for a topic that refuses, not one for each record."""
        self._drop("kafka", count)
        if not self._refused:
            log.warning("shadow scores are not taken", topic=self._settings.topics.shadow, reason=reason)
        self._refused = True

    def _drop(self, reason: str, count: int) -> None:
        if count > 0:
            self._metrics.shadow_dropped_total.labels(reason=reason).inc(count)


def producer(settings: Settings) -> Producer:
    """Idempotent, in no transaction; bounded in what it holds and in how long."""
    return Producer(
        {
            **clients.librdkafka(settings.kafka),
            **clients.IN_ORDER,
            "compression.type": "lz4",
            "linger.ms": 20,
            "message.timeout.ms": int(_DELIVERY_S * 1000),
            "queue.buffering.max.messages": 4 * MAX_WAITING,
            "queue.buffering.max.kbytes": 32 << 10,
        }
    )
