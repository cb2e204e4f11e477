"""Where a batch's time goes on its way to the commit: timers around the worker's own steps.

`watch` runs inside the worker under load, before it serves; `Page` reads the worker's metrics from outside, so that two
of them tell what lies between. A batch counts once, however many events it has. Knows nothing of load.

`python -m loadtest.waits` is `intent worker` with the timers.
"""

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, NoReturn

from aiokafka.producer.sender import AddPartitionsToTxnHandler, EndTxnHandler, SendProduceReqHandler
from prometheus_client import REGISTRY, CollectorRegistry, Summary

from loadtest.scrape import Samples
from worker import pipeline
from worker.stream import marks, partition

_NAME: Final = "loadtest_wait_seconds"
_OURS: Final = (
    "fold",
    "wait for the transaction before",
    "render",
    "add partitions",
    "produce",
    "end transaction",
    "seen by readers",
)
"""Measured by the timers; the rest of `PARTS` are the worker's own metrics."""

AN_EVENT: Final = "event sent to batch committed"
"""The part that is counted by the event; all others are by the batch."""

PARTS: Final[Mapping[str, tuple[str, str | None]]] = {
    AN_EVENT: ("intent_event_to_score_seconds", None),
    "fold": (_NAME, "fold"),
    "score": ("intent_score_seconds", None),
    "wait for the transaction before": (_NAME, "wait for the transaction before"),
    "render": (_NAME, "render"),
    "transaction, all of it": ("intent_transaction_seconds", None),
    "- add partitions": (_NAME, "add partitions"),
    "- produce": (_NAME, "produce"),
    "- end transaction": (_NAME, "end transaction"),
    "- seen by readers": (_NAME, "seen by readers"),
}
"""What is told, in order: a metric and its label."""


def watch(registry: CollectorRegistry) -> None:
    """Put the timers in place, in this process."""
    waits = Summary(_NAME, "Time of a step of a batch.", ["part"], registry=registry)
    of = {part: waits.labels(part) for part in _OURS}
    core: Any = pipeline
    edge: Any = partition
    ends: Any = marks
    core.fold = _timed(core.fold, of["fold"])
    core._finished = _awaited(core._finished, of["wait for the transaction before"])  # noqa: SLF001
    edge.render = _timed(edge.render, of["render"])
    ends.seen = _awaited(ends.seen, of["seen by readers"])
    handlers: dict[str, Any] = {
        "add partitions": AddPartitionsToTxnHandler,
        "produce": SendProduceReqHandler,
        "end transaction": EndTxnHandler,
    }
    for part, handler in handlers.items():
        handler.do = _awaited(handler.do, of[part])


def _timed(step: Callable[..., Any], into: Summary) -> Callable[..., Any]:
    @wraps(step)
    def timed(*args: Any, **options: Any) -> Any:
        with into.time():
            return step(*args, **options)

    return timed


def _awaited(step: Callable[..., Any], into: Summary) -> Callable[..., Any]:
    @wraps(step)
    async def timed(*args: Any, **options: Any) -> Any:
        with into.time():
            return await step(*args, **options)

    return timed


class Page:
    """Counts and sums of the parts, as the worker's metrics have them at one moment."""

    def __init__(self, samples: Samples) -> None:
        self.counts, self.sums = (
            {
                part: samples.get((f"{name}_{what}", *([label] if label else [])), 0.0)
                for part, (name, label) in PARTS.items()
            }
            for what in ("count", "sum")
        )
        self.cpu_s = samples.get(("process_cpu_seconds_total",), 0.0)

    def means_ms(self, before: "Page") -> dict[str, float]:
        """Since then, milliseconds by part; those that did not happen are left out."""
        counts = {part: count - before.counts[part] for part, count in self.counts.items()}
        return {
            part: (self.sums[part] - before.sums[part]) / count * 1000 for part, count in counts.items() if count > 0
        }

    def batches(self, before: "Page") -> int:
        """Committed since then."""
        part = "transaction, all of it"
        return round(self.counts[part] - before.counts[part])

    def cpu_us(self, before: "Page") -> float:
        """The whole process' since then, an event; 0 where there was none."""
        events = self.counts[AN_EVENT] - before.counts[AN_EVENT]
        return (self.cpu_s - before.cpu_s) / events * 1e6 if events else 0.0


def main() -> NoReturn:
    """`intent worker`, watched."""
    from worker.cli import main as program

    watch(REGISTRY)
    sys.argv = ["intent", "worker"]
    program()
    raise AssertionError("the worker exits the process")


if __name__ == "__main__":
    main()
