"""Environments for contenders that cannot live in the worker's: made when first needed, below the user's cache folder.

Quix Streams holds confluent-kafka back, and inference runtimes are hundreds of megabytes that only a comparison wants.
Each lock file pins every package by hash; `uv pip compile --universal --python-version 3.11 --generate-hashes
--no-header --no-annotate` writes it from the `.in` file beside it.
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

_LOADTEST: Final = Path(__file__).parent
_TIMEOUT_S: Final = 600


def quix(say: Callable[[str], None]) -> Path:
    """The Python that runs Quix Streams."""
    return _made(_LOADTEST / "contenders" / "quix.lock", "Quix Streams", say) / "bin" / "python"


def runtimes(say: Callable[[str], None]) -> Path:
    """The folder of packages with ONNX Runtime, OpenVINO and ONNX, to be appended to a process's `sys.path`."""
    folder = _made(_LOADTEST / "scorers" / "runtimes.lock", "ONNX Runtime and OpenVINO", say)
    return next(folder.glob("lib/python3*/site-packages"))


def _made(lock: Path, what: str, say: Callable[[str], None]) -> Path:
    """The environment's folder. Makes it first where it is missing: less than a minute, and a network is needed.

    Raises `IntentError` with the installer's own words when that fails; nothing half made is left, by a stop neither.
    """
    mark = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = jars.repository().parent / f"{lock.stem}-{mark}"
    ready = folder / ".ready"
    if ready.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    count = sum("==" in line for line in lock.read_text().splitlines())
    say(f"installing {what}, with what is needed ({count} packages, by hash), into {folder}; first time only")
    try:
        _run([sys.executable, "-m", "venv", str(folder)], what)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
        _run([*pip, "-r", str(lock)], what)
        ready.touch()
    finally:
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
    return folder


def _run(command: list[str], what: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise IntentError(f"{what} cannot be installed: {''.join(last)}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IntentError(f"{what} cannot be installed: {error}") from None
