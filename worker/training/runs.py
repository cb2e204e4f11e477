"""A run's folder: what was asked for, what it was made from, how it went, and where it goes on after an interruption.

================== ==============================================================================================
``run.json``       the plan, the data's fingerprint, the code's commit if it is known
``history.jsonl``  a line a step: stage, windows, loss; what validation found
``curves.png``     the same as a plot
``checkpoints/``   the last one of each stage
================== ==============================================================================================

The evaluation adds its report. Knows no network.
"""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from worker.errors import IntentError
from worker.training.checkpoints import Checkpoints
from worker.training.loop import Progress

_RUN, _HISTORY = "run.json", "history.jsonl"


class Run:
    """A run under way."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.checkpoints = Checkpoints(folder / "checkpoints")

    @classmethod
    def begin(cls, runs: Path, name: str, *, plan: Mapping[str, Any], data: Iterable[Path], command: str) -> Self:
        """A new folder among the runs."""
        began = f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        folder, number = runs / began, 1
        while True:
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:  # of another run, perhaps begun in the same moment
                number += 1
                folder = runs / f"{began}-{number}"
        settings = {"command": command, "plan": plan, "data": fingerprint(data), "commit": commit()}
        (folder / _RUN).write_text(json.dumps(settings, indent=1) + "\n")
        (folder / _HISTORY).write_text("")
        return cls(folder, settings)

    @classmethod
    def resume(cls, folder: Path, *, plan: Mapping[str, Any], data: Iterable[Path]) -> Self:
        """One that was interrupted. Raises `IntentError` where it is none, or was of another plan or other data."""
        try:
            settings = json.loads((folder / _RUN).read_text())
            planned, made_from = dict(settings["plan"]), settings["data"]
        except (OSError, ValueError, LookupError, TypeError):
            raise IntentError(f"--resume {folder}: no {_RUN} of a run is there; name a folder below --runs") from None
        for name, value in json.loads(json.dumps(plan)).items():
            if planned.get(name) != value:
                raise IntentError(
                    f"--resume {folder}: that run has {name} = {planned.get(name)}, this command {value}; "
                    f"repeat its command: {settings.get('command')}"
                )
        if made_from != fingerprint(data):
            raise IntentError(f"--resume {folder}: {' and '.join(map(str, data))} are not what that run was made from")
        with (folder / _HISTORY).open("a") as file:
            file.write("\n")  # behind a line that a full disk may have cut off
        return cls(folder, settings)

    @property
    def command(self) -> str:
        """What began it, however often it was resumed."""
        return str(self.settings["command"])

    def add(self, progress: Progress) -> None:
        """A step, at the end of the history."""
        with (self.folder / _HISTORY).open("a") as file:
            file.write(json.dumps(asdict(progress)) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The steps so far; of those that were taken twice, because of an interruption, the later."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for line in (self.folder / _HISTORY).read_text(errors="replace").splitlines():
            with suppress(ValueError):  # a line that an interruption cut off
                entry = json.loads(line)
                found[entry["stage"], entry["windows"]] = entry
        return list(found.values())

    def write(self, name: str, document: object) -> None:
        """A JSON file beside the rest."""
        (self.folder / name).write_text(json.dumps(document, indent=1) + "\n")


def fingerprint(data: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, and of each Parquet file of a folder, by name."""
    found = {}
    for path in data:
        for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
            with file.open("rb") as content:
                found[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def commit() -> str | None:
    """Of the checkout that this package runs from, `+` behind it where files were changed; None outside of one."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed in a checkout of something else, that one is not ours
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
