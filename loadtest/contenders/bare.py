"""A loop over confluent-kafka: what Python can do at most. Its state is a dictionary, and nothing of it is durable.

At least once: a batch's outputs are acknowledged before its offsets are committed.
"""

from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer

from loadtest.contenders.jobs import steps
from loadtest.contenders.task import Stopwatch, Task, answer

_BATCH: Final = 10_000


def run(task: Task) -> None:
    """Read the topic to its end, then `answer`."""
    consumer = Consumer(
        {
            "bootstrap.servers": task.servers,
            "group.id": task.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": 128 << 10,
            "fetch.max.bytes": 16 << 20,
            "max.partition.fetch.bytes": 4 << 20,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": task.servers,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 1,
            "queue.buffering.max.messages": 500_000,
            "batch.num.messages": 100_000,
            "batch.size": 1 << 20,
        }
    )
    consumer.subscribe([task.events])
    step = steps(task.job, topic=task.events, application=task.group)
    windows: dict[bytes, bytes] = {}
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    watch, done = Stopwatch(), 0
    while done < task.count:
        messages = consumer.consume(min(_BATCH, task.count - done), 0.1)  # it waits until it has so many
        if not messages:
            continue
        watch.begin()
        latest: dict[bytes, tuple[bytes, Any, int]] = {}
        for message in messages:
            key, value, partition, offset = message.key(), message.value(), message.partition(), message.offset()
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            assert partition is not None
            assert offset is not None
            headers: Any  # the client wants lists of its own type
            dead: Any
            after, score, headers, dead = step(
                windows.get(key),
                value,
                key=key,
                partition=partition,
                offset=offset,
                timestamp_ms=message.timestamp()[1],
            )
            if after is not None:
                windows[key] = after
            if score is not None:
                producer.produce(task.scores, score, key, partition, headers=headers, on_delivery=delivered)
                latest[key] = score, headers, partition
            elif dead is not None:
                producer.produce(task.dead_letters, value, key, partition, headers=dead, on_delivery=delivered)
        if task.job == "full":
            for key, (score, headers, partition) in latest.items():
                producer.produce(task.latest, score, key, partition, headers=headers, on_delivery=delivered)
        producer.flush()
        if failed:
            raise SystemExit(f"an output was refused: {failed[0].str()}")
        consumer.commit(asynchronous=True)
        done += len(messages)
    answer(watch.read(done))


if __name__ == "__main__":
    run(Task.of_command_line())
