"""Puts one worker together: settings, topics, model, metrics, stream. Knows all the parts, not how they work.

Whatever is wrong with a setting, a topic or the bundle is said here, in one sentence, before anything is started.
"""

from typing import Final, NoReturn

import structlog
from prometheus_client import REGISTRY

from worker.config import Settings
from worker.errors import SettingError
from worker.ops import logs
from worker.ops.metrics import Metrics

_VITAL: Final = ("topic", "partitions", "cleanup.policy")
"""Differences under which windows would be lost or split; of the others the log warns."""

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> NoReturn:
    """Run the stream worker until a signal. Exits the process: 0 after a clean stop, 1 when it stopped uncommitted.

    Raises `SettingError` or `IntentError`, one sentence, when something is wrong before the start.
    """
    logs.configure(level=settings.log.level, format=settings.log.format)
    _check_topics(settings)
    _check_folder(settings)

    from worker.scoring.bundle import load
    from worker.scoring.engine import Engine

    bundle = load(settings.model.bundle)
    engine = Engine.configured(bundle, settings.model)
    log.info("model", name=engine.model.name, version=engine.model.version, device=str(engine.device))

    from worker.stream.app import serve as stream

    stream(settings, engine=engine, metrics=Metrics(REGISTRY))


def _check_topics(settings: Settings) -> None:
    from worker.kafka import topics

    for difference in topics.check(settings):
        if difference.what in _VITAL:
            raise SettingError(
                f"{difference}; `intent topics create` makes what is missing, `intent topics check` lists all"
            )
        log.warning(
            "topic differs",
            topic=difference.topic,
            what=difference.what,
            found=difference.found,
            wanted=difference.wanted,
        )


def _check_folder(settings: Settings) -> None:
    folder = settings.worker.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingError(
            f"the setting `worker.data_dir` is {str(folder)!r}, which cannot be written ({error.strerror}); "
            "name a writable folder"
        ) from None
