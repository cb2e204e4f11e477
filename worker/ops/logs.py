"""Structured logs on stderr, one shape for our own lines and for those of Faust, aiokafka and the rest.

Owns the format and what may not be in a line; knows nothing of what is logged. Three rules hold here:
no personal data (known field names are masked, tracebacks show no variables, libraries never log at DEBUG, where
aiokafka prints keys and values); no floods (a broker outage repeats a few lines for ever); stdout stays for results.
"""

import logging
import logging.config
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "json", "console"]
"""`auto`: for people on a terminal, else JSON lines."""

PERSONAL: Final = frozenset({"user_id", "event_id", "session_id", "key", "value", "search_term"})
"""Fields that are masked wherever they turn up. A guard: no line is meant to carry them."""

LIBRARIES: Final = ("aiohttp", "aiokafka", "asyncio", "faust", "kafka", "mode", "transformers")
"""Whose floods are held back."""

OWN: Final = __name__.partition(".")[0]
"""Whose level is the setting. All others have the libraries' one: of those that nobody named here, torch told its
cache's statistics when a start was stopped, and at DEBUG numba told each byte code that it compiles.
"""


def configure(*, level: str = "info", format: Format = "auto") -> None:  # noqa: A002 - the setting is `log.format`
    """Send every log line of this process to stderr. Idempotent: a later call replaces the former set-up.

    `level` is a name that `logging` knows, in any case; it holds for the worker's own lines.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a logger made at import must follow a later `configure`
    )
    logging.config.dictConfig(_stdlib(level=level, format=format))
    logging.captureWarnings(capture=True)


def quiet() -> None:
    """For commands that are no service: warnings and worse, on stderr, one console line each. Idempotent."""
    structlog.configure(
        processors=[
            _warnings_only,
            structlog.processors.add_log_level,
            mask_personal,
            *_renderers("console"),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _warnings_only(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if method in {"debug", "info"}:
        raise structlog.DropEvent
    return event


def _stdlib(*, level: str, format: Format) -> dict[str, Any]:  # noqa: A002 - as above
    """The part of `configure` for `logging.config.dictConfig`."""
    threshold = level.upper()
    own = logging.getLevelNamesMapping()[threshold]
    library_threshold = max(own, logging.WARNING) if own > logging.DEBUG else logging.INFO  # Faust tells every step
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "intent": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*_common(), structlog.stdlib.ExtraAdder(allow={"suppressed"})],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format)],
            }
        },
        "filters": {"flood": {"()": FloodFilter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": sys.stderr,
                "formatter": "intent",
                "filters": ["flood"],
            }
        },
        "loggers": {OWN: {"level": threshold}},
        "root": {"level": library_threshold, "handlers": ["stderr"]},
    }


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        mask_personal,
    ]


def _renderers(format: Format) -> list[Processor]:  # noqa: A002 - as above
    colors = sys.stderr.isatty()
    if format == "json" or (format == "auto" and not colors):
        return [
            structlog.processors.format_exc_info,  # plain text, without the variables of the frames
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors,
            exception_formatter=structlog.dev.plain_traceback,  # the default one shows variables, so events
        )
    ]


def _to_json(event: EventDict, **options: Any) -> str:
    return orjson.dumps(event, default=options.get("default", str)).decode()


def mask_personal(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the values of personal fields; a structlog processor."""
    for name in PERSONAL & event.keys():
        event[name] = "[masked]"
    return event


@dataclass(slots=True)
class _Burst:
    began_s: float
    passed: int = 0
    suppressed: int = 0


class FloodFilter(logging.Filter):
    """Lets a library's message pass `limit` times in `window_s`, then holds it back and counts.

    Messages are told apart by logger, level and template, so "Unable connect to node with id %s" is one message for all
    nodes. The first one that passes in a new window carries `suppressed`. The worker's own lines always pass.
    """

    MAX_TEMPLATES: Final = 1_000  # some libraries put values into the template itself: forget rather than grow

    def __init__(self, *, limit: int = 5, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._bursts: dict[tuple[str, int, str], _Burst] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written."""
        if record.name.partition(".")[0] not in LIBRARIES:
            return True
        now_s = self._clock()
        template = (record.name, record.levelno, str(record.msg))
        burst = self._bursts.get(template)
        if burst is None or now_s - burst.began_s >= self._window_s:
            if len(self._bursts) >= self.MAX_TEMPLATES:
                self._bursts.clear()
            if burst is not None and burst.suppressed:
                record.suppressed = burst.suppressed
            burst = self._bursts[template] = _Burst(began_s=now_s)
        if burst.passed >= self._limit:
            burst.suppressed += 1
            return False
        burst.passed += 1
        return True
