"""A scorer's process from outside: started, asked one question at a time, ended. Knows nothing of what it measures."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final, Self

import orjson

from loadtest.scorers.task import Task
from worker.errors import IntentError

_TIMEOUT_S: Final = 600.0
_END_TIMEOUT_S: Final = 10.0
_ROOT: Final = Path(__file__).parents[2]


class Child:
    """Runs `python -m loadtest.scorers.MODULE TASK`. Raises `IntentError` with its last words when it fails."""

    def __init__(self, task: Task, *, module: str = "serve") -> None:
        self.name = task.scorer
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", f"loadtest.scorers.{module}", task.dump()],
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(task.threads), "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
        )

    def ask(self, told: dict[str, Any]) -> dict[str, Any]:
        """Tell it one line; its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(orjson.dumps(told) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise IntentError(self._last_words()) from None
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Its next answer; lines that are none are what libraries print."""
        assert self._process.stdout is not None
        alarm = threading.Timer(_TIMEOUT_S, self._process.kill)
        alarm.start()
        try:
            for line in self._process.stdout:
                if line.startswith(b"{"):
                    answer: dict[str, Any] = orjson.loads(line)
                    return answer
        finally:
            alarm.cancel()
        raise IntentError(self._last_words())

    def finish(self) -> None:
        """Wait until it ends by itself, with success."""
        try:
            code = self._process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            raise IntentError(self._last_words())

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_words(self) -> str:
        self._process.wait(_END_TIMEOUT_S)
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        return f"{self.name} ended with {self._process.returncode}: {lines[-1] if lines else 'it said nothing'}"
