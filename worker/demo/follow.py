"""Follows the topics live and shows the board what passes. Nothing rests on it: the audit reads everything again."""

import threading
import time
from typing import Final

import msgspec
from confluent_kafka import Message, TopicPartition

from worker.demo.audit import consumer, fate_of_dead_letter, place_of_score, read_score
from worker.demo.board import Act, Board
from worker.settings import Settings

_FOLLOWED: Final = "purchase_24h"
_NAME_WIDTH: Final = 24


class _Item(msgspec.Struct):
    item_id: str = ""
    item_name: str | None = None
    item_category: str | None = None
    price: float | None = None


class _Event(msgspec.Struct):
    user_id: str
    type: str
    items: list[_Item] = []
    search_term: str | None = None


_read_event = msgspec.json.Decoder(_Event).decode


class Follower(threading.Thread):
    """Reads from the topics' beginning until `close`. A failure is kept in `error`."""

    def __init__(self, settings: Settings, board: Board) -> None:
        super().__init__(name="follower", daemon=True)
        self.error: BaseException | None = None
        self._settings = settings
        self._board = board
        self._ending = threading.Event()

    def run(self) -> None:
        """The thread's body."""
        topics = self._settings.topics
        reader = consumer(self._settings)
        try:
            reader.assign(
                [
                    TopicPartition(topic, partition, 0)
                    for topic in (topics.events, topics.scores, topics.dead_letters)
                    for partition in range(topics.partitions)
                ]
            )
            take = {topics.events: self._event, topics.scores: self._score, topics.dead_letters: self._dead}
            while not self._ending.is_set():
                for message in reader.consume(2000, timeout=0.1):
                    topic = message.topic()
                    if message.error() is None and topic is not None:
                        take[topic](message)
        except Exception as error:  # told by whoever looks at the view
            self.error = error
        finally:
            reader.close()

    def close(self) -> None:
        """Ends the thread and waits for it."""
        self._ending.set()
        self.join(10)

    def _event(self, message: Message) -> None:
        place = (message.partition() or 0, message.offset() or 0)
        timestamp_ms = message.timestamp()[1]
        try:
            event = _read_event(message.value() or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._board.event(place, timestamp_ms=timestamp_ms, user=None, act=None)
            return
        item = event.search_term or (short_name(event.items[0]) if event.items else "")
        self._board.event(place, timestamp_ms=timestamp_ms, user=event.user_id, act=Act(event.type, item))

    def _score(self, message: Message) -> None:
        score = read_score(message.value() or b"")
        self._board.score(
            place_of_score(score, self._settings.topics.events),
            at_ms=int(time.time() * 1000),
            now_s=time.monotonic(),
            user=score.user_id,
            chance=score.intent[_FOLLOWED],
            reasons=[str(reason["code"]) for reason in score.reasons if reason["weight"] > 0],
            model=score.model,
        )

    def _dead(self, message: Message) -> None:
        self._board.dead(*fate_of_dead_letter(message))


def short_name(item: _Item) -> str:
    """An item for people: the last part of its category, else its name, and its price."""
    category = (item.item_category or "").rstrip("/").rpartition("/")[2]
    name = category or (item.item_name or item.item_id)[:_NAME_WIDTH].strip()
    return f"{name} ${item.price:,.2f}" if item.price else name
