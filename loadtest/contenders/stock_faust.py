"""Faust as its documentation shows it: `async for` over the stream, a table in RocksDB, a send for each result."""

from typing import Any

import faust

from loadtest.contenders.jobs import steps
from loadtest.contenders.task import Stopwatch, Task, answer


def application(task: Task) -> faust.App:
    """The app; it ends its process when the topic is read."""
    app = faust.App(
        task.group,
        broker=f"kafka://{task.servers}",
        store="rocksdb://",
        datadir=task.folder,
        consumer_auto_offset_reset="earliest",
        topic_partitions=task.partitions,
        topic_disable_leader=True,
        table_standby_replicas=0,
        producer_acks=-1,
        web_enabled=False,
    )
    source = app.topic(task.events, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    scores = app.topic(task.scores, key_serializer="raw", value_serializer="raw")
    latest = app.topic(task.latest, key_serializer="raw", value_serializer="raw")
    dead_letters = app.topic(task.dead_letters, key_serializer="raw", value_serializer="raw")
    windows: Any = app.Table(
        "windows",
        partitions=task.partitions,
        key_type=bytes,
        value_type=bytes,
        default=bytes,
        options={"driver": "rocksdict"},
    )
    step = steps(task.job, topic=task.events, application=task.group)
    watch = Stopwatch()

    async def score(stream: Any) -> None:
        done = 0
        async for event in stream.events():
            watch.begin()
            key, value, record = event.key, event.value, event.message
            headers: Any  # Faust wants lists of its own type
            dead: Any
            after, scored, headers, dead = step(
                windows[key] or None,
                value,
                key=key,
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=round(record.timestamp * 1000),
            )
            if after is not None:
                windows[key] = after
            if scored is not None:
                await scores.send(key=key, value=scored, headers=headers, partition=record.partition)
                if task.job == "full":
                    await latest.send(key=key, value=scored, headers=headers, partition=record.partition)
            elif dead is not None:
                await dead_letters.send(key=key, value=value, headers=dead, partition=record.partition)
            done += 1
            if done == task.count:
                await app.producer.flush()
                answer(watch.read(done))

    app.agent(source, name="score")(score)
    return app


if __name__ == "__main__":
    faust.Worker(application(Task.of_command_line()), loglevel="error", quiet=True).execute_from_commandline()
