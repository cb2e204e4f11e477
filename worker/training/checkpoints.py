"""Where an interrupted run goes on: a file a stage, in the run's folder. Owns the files; does not know what is in them.

Loading accepts tensors and plain values only, nothing that would be executed.
"""

from pathlib import Path
from typing import Any

import torch

from worker.errors import IntentError
from worker.whole import written


class Checkpoints:
    """Of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, stage: str, state: dict[str, Any]) -> None:
        """Replaces the stage's former one. Raises `IntentError` where it cannot be written; the former stays."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(stage)
        try:
            with written(path) as beside:
                torch.save(state, beside)
        except RuntimeError:  # torch's writer does not tell a full disk's error from its own
            raise IntentError(
                f"checkpoint {path} cannot be written, most likely for want of room; make some, then --resume"
            ) from None

    def load(self, stage: str) -> dict[str, Any] | None:
        """The stage's last one; None where it has none. Raises `IntentError` for a file that is none."""
        path = self._path(stage)
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except Exception as error:  # torch raises whatever its readers do
            reason = " ".join(str(error).split())[:200]
            raise IntentError(
                f"checkpoint {path} cannot be read; delete it to begin the stage again: {reason}"
            ) from error
        return state

    def _path(self, stage: str) -> Path:
        return self._folder / f"{stage.replace(' ', '-')}.pt"
