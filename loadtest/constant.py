"""The stream worker with a scorer that does nothing: what remains is the stream's own latency and cost.

`python -m loadtest.constant [light|full]` takes the settings of `intent worker`, and loads no model and no torch.
*light* has the fold and the scores of the comparison's light job (`contenders/light.py`).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np
from prometheus_client import REGISTRY

from worker import config
from worker.ops import logs
from worker.ops.metrics import Metrics
from worker.scores import HORIZONS, NO_REASON, Model

MODEL: Final = Model("constant", "0")


@dataclass
class Constant:
    """Rows of one and the same score; see `worker.pipeline.EngineScores`."""

    intent: np.ndarray
    risk: np.ndarray
    risk_reasons: np.ndarray
    reason_codes: np.ndarray
    reason_weights: np.ndarray
    model: Model
    intent_percentile: np.ndarray | None = None

    @classmethod
    def of(cls, rows: int) -> "Constant":
        """So many rows."""
        return cls(
            intent=np.full((rows, len(HORIZONS)), 0.5, dtype=np.float32),
            risk=np.zeros(rows, dtype=np.float32),
            risk_reasons=np.zeros(rows, dtype=np.uint8),
            reason_codes=np.full((rows, 3), NO_REASON, dtype=np.uint8),
            reason_weights=np.zeros((rows, 3), dtype=np.float32),
            model=MODEL,
        )


class ConstantEngine:
    """Stands where `worker.scoring.engine.Engine` does."""

    model = MODEL
    queued = 0
    alive = True

    async def score(self, windows: Sequence[bytes]) -> Constant:
        """At once."""
        return Constant.of(len(windows))

    def close(self) -> None:
        """Nothing to close."""


def main() -> NoReturn:
    """Run until a signal, as `intent worker` does."""
    from loadtest import waits
    from loadtest.contenders import light
    from worker.stream.app import serve

    if sys.argv[1:] == ["light"]:
        light.install()
    waits.watch(REGISTRY)
    settings = config.load()
    logs.configure(level=settings.log.level, format=settings.log.format)
    serve(settings, engine=ConstantEngine(), metrics=Metrics(REGISTRY))


if __name__ == "__main__":
    main()
