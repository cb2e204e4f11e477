"""Dead letters sent again to where they came from, unless they would only come back. Decides first, then sends."""

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker import deadletter, events
from worker.dlq.letters import Letter
from worker.errors import IntentError, Invalid
from worker.fold import LATE
from worker.kafka import clients
from worker.scores import Headers
from worker.settings import Kafka

FROM_HEADER: Final = "intent.redriven-from"
"""Added to a record that is sent again: the dead letter's topic, partition and offset."""

KEPT: Final = frozenset({"no_source", "other_topic"})
"""Obstacles that nothing lifts: there is no place to send such a letter to."""

_FLUSH_TIMEOUT_S: Final = 60.0
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Unacknowledged(IntentError):
    """All letters were tried, and some have not arrived."""


@dataclass(slots=True)
class Outcome:
    """What became of the letters."""

    sent: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """By why: those of `KEPT` have no place to go to, the others would fail again."""


def obstacle(letter: Letter, *, topic: str, now_ms: int) -> str | None:
    """Why sending it again cannot be or would fail again, as a reason code; None when it may do well now.

    `topic` is the one that letters go back to. A header that names another is no reason to write there: whoever may
    write dead letters would choose where this program, with its own rights, sends them.

    `now_ms` is the timestamp that the new record would get: what lay too far ahead once may be past today. A late
    event stays late, since its user's newest event only moves on.
    """
    if not letter.topic or letter.partition < 0:
        return "no_source"
    if letter.topic != topic:
        return "other_topic"
    if letter.reason == LATE:
        return LATE
    try:
        events.decode(letter.value, key=letter.key, timestamp_ms=now_ms)
    except Invalid as error:
        return error.reason
    return None


class Redriver:
    """Sends letters to the topic and partition they came from, with their key, value and headers, and a new timestamp.

    Acknowledged by all replicas. Sending one twice does little harm: the worker drops the second as a duplicate while
    the first is among the user's last 128 events. Raises `SettingError` for what librdkafka does not accept.
    """

    def __init__(self, kafka: Kafka, *, dead_letters: str) -> None:
        self._dead_letters = dead_letters
        config = {
            **clients.librdkafka(kafka),
            **clients.IN_ORDER,
            "linger.ms": 20,
            "message.max.bytes": 2 * deadletter.MAX_BYTES,  # any letter: what is too large, the topic says
        }
        with clients.accepted():
            self._producer = Producer(config)
        self._failed: Counter[str] = Counter()
        self.acknowledged = 0
        """Letters that have arrived, also where `send` ends early."""
        self.sent = 0
        """Letters that were given to the client, the last of them `last`."""
        self.last = ""
        """Id of the last that was sent."""

    def send(self, letters: Iterable[Letter]) -> int:
        """Send all and wait until they are acknowledged; how many. Raises `Unacknowledged` when one was not.

        Where the letters themselves end in an error, or a signal ends it, those before are sent all the same.
        """
        topic = ""
        try:
            for letter in letters:
                topic = letter.topic
                where = f"{self._dead_letters}-{letter.id.replace(':', '-')}"
                self._produce(letter, [*letter.headers, (FROM_HEADER, where.encode())])
                self.last = letter.id
                self.sent += 1
        except BaseException:  # Ctrl-C and SIGTERM as well
            with suppress(IntentError), clients.of_use(topic):
                self._producer.flush(_FLUSH_TIMEOUT_S)  # else what is queued goes with the producer, unsent
            raise
        with clients.of_use(topic):
            left = self._producer.flush(_FLUSH_TIMEOUT_S)
        if left or self._failed:
            why = "; ".join(f"{number}: {reason}" for reason, number in self._failed.items())
            raise Unacknowledged(
                f"{left + self._failed.total()} of {self.sent} letters were not acknowledged ({why or 'no answer'}); "
                "the rest was sent: run the same command again, what arrived already counts once"
            )
        return self.sent

    def _produce(self, letter: Letter, headers: Headers) -> None:
        while True:
            try:
                with _unheard():
                    self._producer.produce(
                        letter.topic,
                        value=letter.value,
                        key=letter.key,
                        partition=letter.partition,
                        headers=[*headers],
                        on_delivery=self._delivered,
                    )
            except BufferError:  # the local queue is full: wait for acknowledgements
                self._poll(letter.topic, 1)
            except KafkaException as error:  # refused before it is sent: too large, or no such partition
                self._failed[error.args[0].str()] += 1
                return
            else:
                self._poll(letter.topic, 0)
                return

    def _poll(self, topic: str, timeout_s: float) -> None:
        with clients.of_use(topic):
            self._producer.poll(timeout_s)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self._failed[error.str()] += 1


@contextmanager
def _unheard() -> Iterator[None]:
    """Signals that stop the program are heard at its end, in the main thread, where alone it may be used.

    Of what a handler raises while confluent-kafka reads names of headers it makes a `TypeError`; every third was one.
    """
    came: list[int] = []
    former = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _STOPS}
    try:
        yield
    finally:
        for stop, handler in former.items():
            signal.signal(stop, handler)
        for number in came:
            signal.raise_signal(number)
