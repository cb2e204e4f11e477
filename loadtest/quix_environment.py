"""The environment that Quix Streams runs in: made when first needed, below the user's cache folder, and kept.

Quix holds confluent-kafka back, so it cannot live in the worker's. `contenders/quix.lock` pins every package by hash;
`uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate` writes it from `quix.in`.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from worker.errors import IntentError
from worker.kafka import jars

_LOCK: Final = Path(__file__).parent / "contenders" / "quix.lock"
_TIMEOUT_S: Final = 600


def python(say: Callable[[str], None]) -> Path:
    """The environment's Python. Makes it first where it is missing: about 20 s, and a network is needed.

    Raises `IntentError` with the installer's own words when that fails; nothing half made is left.
    """
    mark = hashlib.sha256(_LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = jars.repository().parent / f"quix-{mark}"
    program, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists():
        return program
    shutil.rmtree(folder, ignore_errors=True)
    count = sum("==" in line for line in _LOCK.read_text().splitlines())
    say(f"installing Quix Streams and what it needs ({count} packages, by hash) into {folder}; first time only")
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(program), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(_LOCK)])
    except IntentError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ready.touch()
    return program


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise IntentError(f"Quix Streams cannot be installed: {''.join(last)}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IntentError(f"Quix Streams cannot be installed: {error}") from None
