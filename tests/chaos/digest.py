"""The stream worker with the digest scorer, as a program: no torch, so that a start takes a second.

`python -m tests.chaos.digest` takes the settings of `intent worker`.
"""

import gc
from typing import NoReturn


def serve() -> NoReturn:
    """Run until a signal, as `intent worker` does."""
    gc.disable()

    from prometheus_client import REGISTRY

    from tests.chaos.scorers import DigestEngine, Trouble
    from worker import config
    from worker.ops import logs
    from worker.ops.metrics import Metrics
    from worker.stream import app

    settings = config.load()
    logs.configure(level=settings.log.level, format=settings.log.format)
    app.serve(settings, engine=DigestEngine(Trouble()), metrics=Metrics(REGISTRY))


if __name__ == "__main__":
    serve()
