"""A worker whose scorer takes seconds for a batch: `python -m tests.integration.slow SECONDS`."""

import sys
import time
from collections.abc import Sequence

from prometheus_client import REGISTRY

from tests.chaos import scorers
from worker import config
from worker.ops import logs
from worker.ops.metrics import Metrics
from worker.stream.app import serve


class Slow(scorers.DigestEngine):
    def _score(self, windows: Sequence[bytes]) -> scorers.Scores:
        time.sleep(float(sys.argv[1]))
        return super()._score(windows)


if __name__ == "__main__":
    settings = config.load()
    logs.configure(level=settings.log.level, format=settings.log.format)
    settings.worker.data_dir.mkdir(parents=True, exist_ok=True)
    serve(settings, engine=Slow(scorers.Trouble()), metrics=Metrics(REGISTRY))
