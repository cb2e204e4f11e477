"""Log lines: one shape, no personal data, no floods."""

import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog

from worker.ops import logs


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    own = logging.getLogger(logs.OWN)
    level = own.level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    own.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [orjson.loads(line) for line in captured.err.splitlines()]


def test_own_and_library_lines_have_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", format="json")
    structlog.stdlib.get_logger("worker.stream").info("batch committed", partition=3, events=20)
    logging.getLogger("aiokafka.client").warning("Unable connect to node with id %s: %s", 1, "refused")
    own, library = lines(capsys)
    assert own["event"] == "batch committed"
    assert (own["partition"], own["events"], own["level"], own["logger"]) == (3, 20, "info", "worker.stream")
    assert library["event"] == "Unable connect to node with id 1: refused"
    assert own.keys() - {"partition", "events"} == library.keys() == {"event", "level", "logger", "timestamp"}


@pytest.mark.parametrize("shape", ["json", "console"])
def test_no_personal_data(shape: logs.Format, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="debug", format=shape)
    logger = structlog.stdlib.get_logger("worker")
    secret = "".join(["shopper-", str(4711)])  # put together here, so that no line of a traceback's source holds it
    logger.info("decoded", user_id=secret, key=secret.encode(), session_id=secret)
    logging.getLogger("aiokafka.producer").debug("Sending (key=%s value=%s)", secret, secret)
    try:
        int("no such thing")
    except ValueError:
        logger.exception("failed")
        logging.getLogger("faust").exception("failed")
    written = capsys.readouterr().err
    assert "no such thing" in written
    assert "Traceback" in written
    assert secret not in written


def test_the_level_holds_for_own_lines_and_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="error")
    structlog.stdlib.get_logger("worker").warning("unseen")
    logging.getLogger("faust").warning("unseen")
    structlog.stdlib.get_logger("worker").error("seen")
    assert [line["event"] for line in lines(capsys)] == ["seen"]


@pytest.mark.parametrize(("level", "quietest"), [("debug", logging.INFO), ("info", logging.WARNING)])
@pytest.mark.parametrize("library", ["aiokafka", "numba.core.byteflow", "one.that.nobody.named"])
def test_a_library_is_quieter_than_the_worker(level: str, quietest: int, library: str) -> None:
    logs.configure(level=level)
    assert logging.getLogger("worker").getEffectiveLevel() == logging.getLevelNamesMapping()[level.upper()]
    assert logging.getLogger(library).getEffectiveLevel() == quietest


def test_a_command_says_only_what_is_wrong_and_not_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    logs.quiet()
    structlog.get_logger("worker").info("unseen")
    structlog.get_logger("worker").warning("smaller batches", tokens=65)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().startswith("[warning")
    assert "smaller batches" in captured.err
    assert "unseen" not in captured.err


def record(message: str, *args: object, name: str = "aiokafka.client") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, args, None)


def test_a_flood_is_held_back_and_counted() -> None:
    now_s = 0.0
    flood = logs.FloodFilter(limit=2, window_s=60, clock=lambda: now_s)
    passed = [flood.filter(record("Unable connect to node with id %s", node)) for node in range(5)]
    assert passed == [True, True, False, False, False]
    assert flood.filter(record("Failed fetch messages from %s", 1))  # another message
    now_s = 60.0
    after = record("Unable connect to node with id %s", 1)
    assert flood.filter(after)
    assert vars(after)["suppressed"] == 3


def test_own_lines_are_never_held_back() -> None:
    flood = logs.FloodFilter(limit=1, clock=lambda: 0.0)
    assert all(flood.filter(record("batch committed", name="worker.stream")) for _ in range(5))


def test_a_flood_of_ever_new_templates_does_not_grow() -> None:
    flood = logs.FloodFilter(clock=lambda: 0.0)
    for number in range(2 * flood.MAX_TEMPLATES):
        flood.filter(record(f"put together with {number}"))
    assert len(flood._bursts) <= flood.MAX_TEMPLATES


def test_what_was_held_back_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("faust").warning("again", extra={"suppressed": 12, "user": "u"})
    (line,) = lines(capsys)
    assert line["suppressed"] == 12
    assert "user" not in line  # a library's extra fields are not ours to publish
