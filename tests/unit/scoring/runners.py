"""A ready model with something around it: what tests put between the engine and the device."""

from dataclasses import dataclass

from worker.scoring.bundle import Bundle
from worker.scoring.device import Runner


@dataclass(frozen=True)
class Around:
    """All of a runner but its `begin`."""

    runner: Runner

    @property
    def bundle(self) -> Bundle:
        return self.runner.bundle
