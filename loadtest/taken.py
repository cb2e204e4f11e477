"""Where and how numbers were taken: the part of a result without which it means nothing. Knows no measurement."""

import datetime as dt
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console

PACKAGES: Final = ("aiokafka", "confluent-kafka", "faust-streaming", "numpy", "rocksdict")
_BUSY: Final = 0.5
"""Load average for each core, above which the user is warned."""


def load_before(console: Console) -> float:
    """The load average (1 min) before anything is started; a busy machine is told of on `console`."""
    load = psutil.getloadavg()[0]
    if load > _BUSY * (psutil.cpu_count() or 1):
        console.print(f"this machine is busy (load {load:.1f}): expect worse numbers than it can do", style="yellow")
    return round(load, 2)


def provenance(*, load_before: float, packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Command, date, commit, machine and versions, as plain JSON values."""
    return {
        "command": shlex.join(["python", "-m", "loadtest", *sys.argv[1:]]),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "load_before": load_before,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def _commit() -> str | None:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
