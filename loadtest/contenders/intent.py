"""The worker of this project: its own stream, table and transactions, with a scorer that costs nothing.

*full* is the worker as it is; `light` says what *light* replaces.
"""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from loadtest.constant import ConstantEngine
from loadtest.contenders import light
from loadtest.contenders.task import Stopwatch, Task, answer
from loadtest.sampler import Sampler
from loadtest.stages import STAGES
from worker import config, pipeline
from worker.fold import Batch
from worker.kafka import topics
from worker.ops import logs
from worker.ops.metrics import Metrics
from worker.ports import free_port
from worker.settings import Settings
from worker.stream import app


class Counted(Metrics):
    """The worker's metrics; when the last event's fate is counted, its batch is committed and stored."""

    def __init__(self, task: Task, watch: Stopwatch) -> None:
        super().__init__(CollectorRegistry())
        self._task = task
        self._watch = watch
        self._sampler = Sampler(STAGES) if task.option else None
        """`task.option` names the file for its findings."""
        self._done = 0

    def count_fates(self, counts: Mapping[str, int]) -> None:
        """As the worker's; ends the process after the last."""
        super().count_fates(counts)
        self._done += sum(counts.values())
        if self._done >= self._task.count:
            took = self._watch.read(self._done)
            if self._sampler is not None:
                Path(self._task.option).write_text(json.dumps(self._sampler.stop()))
            answer(took)

    def begin(self) -> None:
        """The first event is here."""
        if self._sampler is not None and not self._watch.begun:
            self._sampler.start()
        self._watch.begin()


def settings(task: Task) -> Settings:
    """The worker's, all but names and places as they are by default."""
    return config.load(
        {
            "kafka": {"bootstrap_servers": task.servers},
            "topics": {
                "events": task.events,
                "scores": task.scores,
                "latest": task.latest,
                "dead_letters": task.dead_letters,
                "shadow": f"{task.group}.shadow",
                "partitions": task.partitions,
            },
            "worker": {"application_id": task.group, "data_dir": Path(task.folder) / "state", "web_port": free_port()},
            "log": {"level": "warning"},
        }
    )


def timed(fold: Callable[..., Batch], begin: Callable[[], None]) -> Callable[..., Batch]:
    """The same fold; each call tells first that there are events."""

    @wraps(fold)
    def first(*records: Any, **options: Any) -> Batch:
        begin()
        return fold(*records, **options)

    return first


def run(task: Task) -> None:
    """Read the topic to its end, then `answer`."""
    mine = settings(task)
    logs.configure(level=mine.log.level, format=mine.log.format)
    topics.create(mine)
    core: Any = pipeline
    if task.job == "light":
        light.install()
    metrics = Counted(task, Stopwatch())
    core.fold = timed(core.fold, metrics.begin)
    app.serve(mine, engine=ConstantEngine(), metrics=metrics)


if __name__ == "__main__":
    run(Task.of_command_line())
