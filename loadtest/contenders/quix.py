"""Quix Streams as its documentation shows it: a stateful `apply`, `to_topic`; at least once or exactly once.

Runs in an environment of its own (`loadtest.environment`): it needs an older confluent-kafka than the worker.
"""

from typing import Any

from quixstreams import Application, message_context  # type: ignore[import-not-found]  # not in this environment
from quixstreams.checkpointing import Checkpoint  # type: ignore[import-not-found]  # as above

from loadtest.contenders.jobs import steps
from loadtest.contenders.task import Stopwatch, Taken, Task, answer
from worker import deadletter
from worker.scores import Headers


def run(task: Task) -> None:
    """Read the topic to its end, then `answer`. `task.option` is the processing guarantee."""
    application = Application(
        broker_address=task.servers,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        processing_guarantee=task.option,
        state_dir=task.folder,
        loglevel="ERROR",
    )
    raw = {"key_serializer": "bytes", "value_serializer": "bytes"}
    source = application.topic(task.events, key_deserializer="bytes", value_deserializer="bytes")
    scores, latest, dead_letters = (
        application.topic(name, **raw) for name in (task.scores, task.latest, task.dead_letters)
    )
    step = steps(task.job, topic=task.events, application=task.group)
    watch = Stopwatch()
    done = 0
    last: Taken | None = None
    commit = Checkpoint.commit

    def timed_commit(self: Checkpoint, **options: Any) -> None:
        nonlocal last
        commit(self, **options)
        last = watch.read(done)

    Checkpoint.commit = timed_commit

    def score(value: bytes, key: bytes, timestamp: int, _headers: Any, state: Any) -> tuple[bytes, Headers] | None:
        nonlocal done
        watch.begin()
        done += 1
        if done == task.count:
            application.stop()  # after this one, with a last commit; `run(count=…)` counts what leaves the chain
        context = message_context()
        after, scored, headers, dead = step(
            state.get_bytes("window"),
            value,
            key=key,
            partition=context.partition,
            offset=context.offset,
            timestamp_ms=timestamp,
        )
        if after is not None:
            state.set_bytes("window", after)
        if scored is not None:
            return scored, headers
        return None if dead is None else (value, dead)

    def is_dead(_value: bytes, _key: bytes, _timestamp: int, headers: Any) -> bool:
        return bool(headers[0][0].startswith(deadletter.PREFIX))

    def target(*record: Any) -> Any:
        return dead_letters if is_dead(*record) else scores

    # One chain: where a stream branches, Quix copies each value.
    stream: Any = application.dataframe(source)
    stream = stream.apply(score, stateful=True, metadata=True)
    if task.job == "light":
        stream.apply(lambda row: row[0]).to_topic(scores)
    else:
        stream = stream.filter(lambda row: row is not None)
        stream = stream.set_headers(lambda row, *_: row[1]).apply(lambda row: row[0]).to_topic(target)
        stream = stream.filter(lambda *record: not is_dead(*record), metadata=True)
        stream.to_topic(latest)
    application.run()
    assert last is not None
    assert last.events == task.count
    answer(last)


if __name__ == "__main__":
    run(Task.of_command_line())
