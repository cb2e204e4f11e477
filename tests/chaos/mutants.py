"""Mutants of the core: one wrong line each, the fault under which it shows, and what it does to readers.

A checker that cannot fail shows nothing. Each mutant must be caught by the same checks that pass the worker as it is,
in the same scenario. A mutant is an edit of the source text, so that what is wrong can be read here as a difference;
one that no longer fits the source is an error, not a pass.

    python -m tests.chaos.mutants            # all, as a table
    python -m tests.chaos.mutants NAME ...   # some
    python -m tests.chaos.mutants --list     # what there is, with the edits

Exit code 3 when one survives.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import unified_diff
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.syntax import Syntax
from rich.table import Table


@dataclass(frozen=True)
class Edit:
    """`old` becomes `new` in the text of `module`, in which it stands once."""

    module: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """Raises `ValueError` when the source has changed under the mutant."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.module} holds {text.count(self.old)} times, not once: {self.old!r}")
        return text.replace(self.old, self.new)

    def __str__(self) -> str:
        lines = unified_diff(self.old.splitlines(), self.new.splitlines(), n=9, lineterm="")
        return "\n".join([self.module, *list(lines)[3:]])


@dataclass(frozen=True)
class Mutant:
    """What is wrong, the scenario of `tests.chaos.scenarios` in which it shows, what readers then see, and the name
    of the findings that it has to be among: whatever else is broken, these are of the promise that it breaks.
    """

    name: str
    scenario: str
    shows: str
    found: str
    edits: tuple[Edit, ...]


_ALL = (
    Mutant(
        "store-before-commit",
        scenario="killed_before_commit",
        shows="the batch is done for its next reader and was never published: lost",
        found="lost",
        edits=(
            Edit(
                "worker.stream.partition",
                "            ends = await transaction.commit(",
                "            self.store(batch.changed, batch.watermark, int(self._read(Store.offset_key) or -1))\n"
                "            ends = await transaction.commit(",
            ),
            Edit("worker.cache", "WRITE_S: Final = 1.0\n", "WRITE_S: Final = 0.0\n"),
        ),
    ),
    Mutant(
        "watermark-outside",
        scenario="killed_before_store",
        shows="the batch is published and its progress is not: done again, dead letters and erasures twice",
        found="twice",
        edits=(
            Edit(
                "worker.stream.partition",
                "            ends = await transaction.commit(",
                "            mark = {settings.changelog: [rendered.changelog.pop()]}\n"
                "            await transaction.commit(self._producer, records, partition=self.tp.partition)\n"
                "            records = mark\n"
                "            ends = await transaction.commit(",
            ),
        ),
    ),
    Mutant(
        "producers-after-recovery",
        scenario="zombie",
        shows="the former owner is not fenced while its successor recovers, and commits behind its back: twice",
        found="twice",
        edits=(
            Edit("worker.stream.assignment", "            await producer.start()\n", ""),
            Edit(
                "worker.stream.hanging",
                "    tp = TopicPartition(topics.changelog, partition)\n",
                "    if sender._sender.sender_task is None:\n        return None\n"
                "    tp = TopicPartition(topics.changelog, partition)\n",
            ),
            Edit(
                "worker.stream.hanging",
                "    tps = [TopicPartition(topic, partition) for topic in topics.outputs]\n",
                "    if sender._sender.sender_task is None:\n        return\n"
                "    tps = [TopicPartition(topic, partition) for topic in topics.outputs]\n",
            ),
            Edit(
                "worker.stream.transaction",
                "    await sender.begin_transaction()\n    add(sender, filter",
                "    if sender._sender.sender_task is None:\n"
                "        await sender.start()\n"
                "    await sender.begin_transaction()\n    add(sender, filter",
            ),
        ),
    ),
    Mutant(
        "recovery-uncommitted",
        scenario="lost_folder",
        shows="windows and watermark of an aborted transaction are recovered: its events are lost",
        found="lost",
        edits=(Edit("worker.stream.consumer", 'level = "read_committed"', 'level = "read_uncommitted"'),),
    ),
    Mutant(
        "recovery-ended-early",
        scenario="lost_folder",
        shows="what was not read back is done again: twice",
        found="twice",
        edits=(
            Edit(
                "worker.stream.recovery",
                "            self._resumed.add(tp)\n",
                "            self._resumed.add(tp)\n"
                "            recovery.active_offsets[tp] = recovery.active_highwaters[tp]\n",
            ),
        ),
    ),
    Mutant(
        "event-skipped",
        scenario="scorer_error",
        shows="the batch whose scoring failed is passed over: lost",
        found="lost",
        edits=(
            Edit(
                "worker.pipeline",
                "                rated = ratings(await engine.score([update.window for update in batch.updated]))\n",
                "                try:\n"
                "                    rated = ratings(await engine.score([update.window for update in batch.updated]))\n"
                "                except RuntimeError:\n"
                "                    continue\n",
            ),
        ),
    ),
    Mutant(
        "stale-cache",
        scenario="there_and_back",
        shows="a partition that comes back is folded onto windows from before it went: other digests",
        found="windows",
        edits=(
            Edit("worker.pipeline", "_SMOOTHING: Final = 8\n", "_SMOOTHING: Final = 8\n_KEPT = {}\n"),
            Edit(
                "worker.pipeline",
                "    cache = Cache(port.window)\n",
                "    cache = _KEPT.setdefault(port.tp, Cache(port.window))\n    cache._stored = port.window\n",
            ),
        ),
    ),
    Mutant(
        "progress-alone",
        scenario="stopped_well",
        shows="the last batches are stored as done without their windows: other digests after a start",
        found="windows",
        edits=(
            Edit(
                "worker.cache",
                "        store(written, *self._reached)\n",
                "        store({}, *self._reached)\n",
            ),
        ),
    ),
    Mutant(
        "group-offsets-trusted",
        scenario="group_offsets_moved",
        shows="the group's offsets stand for what is done, and not the watermark: what is between is lost",
        found="lost",
        edits=(
            Edit(
                "worker.stream.consumer",
                "        await self.seek_wait(self.app.partitions.due())\n",
                "        await super().perform_seek()\n",
            ),
            Edit(
                "worker.stream.partition",
                "        if records[0].offset > due and self._sought != due:\n",
                "        if False:\n",
            ),
        ),
    ),
    Mutant(
        "scores-of-others",
        scenario="quiet",
        shows="a batch's scores stand in another order than its windows: each is somebody else's",
        found="windows",
        edits=(
            Edit(
                "worker.pipeline",
                "ratings(await engine.score([update.window for update in batch.updated]))\n",
                "ratings(await engine.score([update.window for update in batch.updated]))[::-1]\n",
            ),
        ),
    ),
    Mutant(
        "duplicates-fold",
        scenario="quiet",
        shows="an event that comes again counts again",
        found="windows",
        edits=(
            Edit(
                "worker.window",
                "            return Folded(Outcome.DUPLICATE, window)\n",
                "            break\n",
            ),
        ),
    ),
)

MUTANTS: Mapping[str, Mutant] = {mutant.name: mutant for mutant in _ALL}


@dataclass(frozen=True)
class Trial:
    """One mutant in its scenario: how many differences of each kind the oracle found; empty for none, and where none
    is of the kind that is due. `control` is the worker as it is, which must have none.
    """

    mutant: str
    scenario: str
    caught: str
    control: str

    @property
    def holds(self) -> bool:
        return bool(self.caught) and not self.control


def trials(chosen: Iterable[Mutant], servers: str, folder: Path) -> Iterator[Trial]:
    """Each mutant in its scenario, and the worker as it is once in each."""
    from tests.chaos.outcome import summary
    from tests.chaos.scenarios import Stage, play

    controls: dict[str, str] = {}
    for mutant in chosen:
        findings = play(mutant.scenario, Stage(servers, folder / mutant.name, mutant.name))
        caught = summary(findings) if getattr(findings, mutant.found) else ""
        if mutant.scenario not in controls:
            controls[mutant.scenario] = summary(play(mutant.scenario, Stage(servers, folder / mutant.scenario)))
        yield Trial(mutant.name, mutant.scenario, caught, controls[mutant.scenario])


def table(done: Iterable[Trial]) -> Table:
    shown = Table("mutant", "scenario", "caught by", "the worker as it is")
    for one in done:
        control = f"[red]{one.control}" if one.control else "passes"
        shown.add_row(one.mutant, one.scenario, one.caught or "[red]survives", control)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *MUTANTS], metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true", help="what there is, with the edits; runs nothing")
    parser.add_argument("--json", action="store_true", help="the results as one JSON document")
    arguments = parser.parse_args()
    console = Console()
    chosen = [MUTANTS[name] for name in arguments.names or MUTANTS]
    if arguments.list:
        for mutant in chosen:
            console.print(f"[bold]{mutant.name}[/] ({mutant.scenario}): {mutant.shows}")
            for edit in mutant.edits:
                console.print(Syntax(str(edit), "diff", theme="ansi_light"))
        return 0
    from worker.kafka.broker import EmbeddedBroker

    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedBroker(Path(folder) / "kafka") as broker,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        running = trials(chosen, broker.bootstrap_servers, Path(folder))
        done = list(progress.track(running, total=len(chosen), description="mutants"))
    if arguments.json:
        console.print_json(json.dumps([asdict(one) for one in done]))
    else:
        console.print(table(done))
    return 0 if all(one.holds for one in done) else 3


if __name__ == "__main__":
    sys.exit(main())
