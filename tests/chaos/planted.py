"""A worker process with a planted fault: a mutant of the core, and what befalls it at chosen moments.

`python -m tests.chaos.planted --mutant NAME --at commit:3=kill` is `tests.chaos.digest` with other source text in the
places that the mutant names. A moment is the N-th time that the process comes to a step; it then kills itself
(SIGKILL), stops itself (SIGSTOP: the caller wakes it) or raises an error there.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Self

from tests.chaos import digest, mutants

ACTIONS = ("kill", "stop", "raise")


@dataclass(frozen=True)
class Moment:
    """The `nth` time that the process comes to `step`: `action`."""

    step: str
    nth: int
    action: str

    @classmethod
    def parse(cls, text: str) -> Self:
        found = re.fullmatch(rf"({'|'.join(STEPS)}):(\d+)=({'|'.join(ACTIONS)})", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no STEP:N=ACTION of {list(STEPS)} and {list(ACTIONS)}")
        return cls(found[1], int(found[2]), found[3])

    def __str__(self) -> str:
        return f"{self.step}:{self.nth}={self.action}"

    def come(self) -> None:
        if self.action == "raise":
            raise RuntimeError(f"planted at {self}")
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


def _score() -> tuple[type, str]:
    from tests.chaos.scorers import DigestEngine

    return DigestEngine, "score"


def _publish() -> tuple[type, str]:
    from worker.stream.partition import Partition

    return Partition, "publish"


def _commit() -> tuple[type, str]:
    from aiokafka import AIOKafkaProducer

    return AIOKafkaProducer, "commit_transaction"


STEPS: Mapping[str, tuple[Callable[[], tuple[type, str]], bool]] = {
    "score": (_score, False),
    "publish": (_publish, False),
    "commit": (_commit, False),
    "committed": (_commit, True),
}
"""Each step's method, and whether the moment comes after it: before a batch is scored, before its transaction begins,
before it is committed with all of it acknowledged, and after that with nothing of it in RocksDB.
"""


def plant(moment: Moment) -> None:
    find, after = STEPS[moment.step]
    owner, name = find()
    plain = getattr(owner, name)
    calls = itertools.count(1)

    async def planted(self: Any, *arguments: Any) -> Any:
        due = next(calls) == moment.nth
        if due and not after:
            moment.come()
        result = await plain(self, *arguments)
        if due and after:
            moment.come()
        return result

    setattr(owner, name, planted)


class Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from its text with the edits made."""

    def __init__(self, name: str, path: str, edits: Sequence[mutants.Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        text = Path(self.path).read_text()
        for edit in self._edits:
            text = edit.apply(text)
        return compile(text, f"<{fullname}, mutated>", "exec")  # not the file's name: its lines are others


class Finder(importlib.abc.MetaPathFinder):
    """Puts the mutant's modules in place of the real ones."""

    def __init__(self, mutant: mutants.Mutant) -> None:
        self._edits = mutant.edits

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        edits = [edit for edit in self._edits if edit.module == fullname]
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if edits else None
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=Mutated(fullname, spec.origin, edits)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS))
    parser.add_argument("--at", type=Moment.parse, action="append", default=[], metavar="STEP:N=ACTION")
    arguments = parser.parse_args()
    if arguments.mutant is not None:
        sys.meta_path.insert(0, Finder(mutants.MUTANTS[arguments.mutant]))
    for moment in arguments.at:
        plant(moment)
    digest.serve()


if __name__ == "__main__":
    main()
