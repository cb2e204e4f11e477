"""A stretch of a topic, watched: the replay's own reading and pipeline, with a watch where its file would be."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import astuple
from rich.progress import Progress

from worker.drift.report import Watch
from worker.fold import Batch
from worker.replay.plan import Plan
from worker.replay.report import Tally
from worker.replay.run import play
from worker.replay.tape import reader
from worker.scores import Rating
from worker.scoring.engine import Engine
from worker.settings import Settings
from worker.window import Rules


class WatchSink:
    """Hands a batch's scored windows to a watch. A purchase is no instant: what is asked there is the next one."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def write(self, partition: int, batch: Batch, ratings: Sequence[Rating]) -> None:  # noqa: ARG002 - the protocol's
        """A batch's windows and scores."""
        if not batch.updated:
            return
        events = [update.event for update in batch.updated]
        self._watch.arrived(max(update.record.timestamp for update in batch.updated))
        self._watch.add(
            events,
            [update.window for update in batch.updated],
            np.array([astuple(rating.intent) for rating in ratings], np.float32),
            [event.type != "purchase" for event in events],
        )


async def watched(settings: Settings, plan: Plan, watch: Watch, engine: Engine, progress: Progress) -> Tally:
    """Plays the plan into the watch; what became of its records. Raises as `intent replay` does."""
    tally = Tally()
    task = progress.add_task("offsets", total=plan.offsets)
    await play(
        plan,
        consumer=lambda: reader(settings.kafka),
        engine=engine,
        sink=WatchSink(watch),
        tally=tally,
        rules=Rules.of_seconds(
            max_lateness_s=settings.window.max_lateness_s, expire_after_s=settings.window.expire_after_s
        ),
        mode="every",
        max_batch_events=settings.worker.max_batch_events,
        advanced=lambda offsets: progress.advance(task, offsets),
    )
    return tally
