"""What is loaded: a broker, its topics and one worker or several, started as an operator would and gone afterwards.

Knows nothing of load. A worker is a process of its own, so that its interpreter is not shared with the measurement.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal

from loadtest import fleet
from loadtest.contenders.live import EXACTLY_ONCE
from loadtest.contenders.task import Job
from worker.kafka.broker import EmbeddedBroker
from worker.settings import Settings

Program = Literal["constant", "bundle", "bare", "bare-exactly-once"]
"""The worker with a scorer that costs nothing, or with the model; or what it is compared with (`contenders.live`)."""
_READY_TIMEOUT_S: Final = 120.0


@contextmanager
def running(
    *,
    program: Program,
    partitions: int,
    workers: int = 1,
    servers: str | None,
    job: Job = "full",
    model: Mapping[str, object] | None = None,
) -> Iterator[Sequence[Settings]]:
    """So many workers that are ready; the settings of each. With the model there is only the job *full*.

    `model` are settings of that section. `servers` are the user's own brokers, where topics of this run's own are made;
    without them a broker is started. Raises `IntentError` with the worker's last lines when one does not become
    ready, or ends before it is told to.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intent-loadtest-")))
        if servers is None:
            servers = stack.enter_context(EmbeddedBroker(folder / "kafka")).bootstrap_servers
        settings = fleet.deployment(folder, servers=servers, partitions=partitions, model=model)
        names = [f"worker-{number}" for number in range(workers)]
        members = [fleet.Member(settings, folder, name=name, module=_module(program, job)) for name in names]
        stack.enter_context(fleet.at_work(members, within_s=_READY_TIMEOUT_S))
        try:
            yield [member.settings for member in members]
        except OSError:  # nobody answers where a worker was: its last lines say more
            _check(members)
            raise
        _check(members)


def _check(members: Sequence[fleet.Member]) -> None:
    for member in members:
        member.check()


def _module(program: Program, job: Job) -> str:
    match program:
        case "bundle":
            return "loadtest.waits"
        case "constant":
            return f"loadtest.constant {job}"
        case "bare":
            return f"loadtest.contenders.live {job}"
        case "bare-exactly-once":
            return f"loadtest.contenders.live {job} {EXACTLY_ONCE}"
