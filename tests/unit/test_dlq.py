"""Dead letters read back, and which of them are worth sending again."""

import dataclasses
import io
import itertools
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from rich.console import Console
from typer.testing import CliRunner

from worker import deadletter, events
from worker.dlq import commands, letters
from worker.dlq.letters import Letter, escaped, parse
from worker.dlq.redrive import Redriver, obstacle
from worker.errors import IntentError, SettingError
from worker.events import MAX_AHEAD_MS, Event
from worker.replay.plan import Plan, Stretch
from worker.replay.tape import Played
from worker.scores import Headers
from worker.settings import Kafka
from worker.terminal import printable

NOW_MS = 1_700_000_000_000


RANGE = Plan(
    topic="letters",
    stretches=tuple(Stretch(partition=number, warm_from=5, start=5, end=20) for number in (1, 2, 3, 5)),
)


def letter(**changes: object) -> Letter:
    event = Event(event_id="e", user_id="ann", event_time=NOW_MS, type="view_item")
    whole = Letter(
        id="2:7",
        time_ms=NOW_MS,
        topic="events",
        partition=3,
        offset=41,
        stage="decode",
        reason="future",
        message="too far ahead",
        key=b"ann",
        value=events.encode(event),
        headers=[],
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]  # a table of mixed fields


def test_what_the_worker_writes_is_read_back() -> None:
    original: Headers = [("trace", b"abc"), ("trace", b"def")]
    headers = deadletter.headers(
        original,
        topic="events",
        partition=3,
        offset=41,
        timestamp_ms=NOW_MS,
        stage="decode",
        reason="json",
        message="not JSON: é",
    )
    read = parse(Played(7, NOW_MS + 500, b"ann", b"{", headers), partition=2)
    assert read == letter(reason="json", message="not JSON: é", value=b"{", headers=original)
    assert read.source == "events-3-41"


def test_what_others_write_is_read_too() -> None:
    headers = [(f"{deadletter.PREFIX}partition", b"-3"), (f"{deadletter.PREFIX}topic", b"\xff"), ("x", b"")]
    read = parse(Played(7, NOW_MS, None, None, headers), partition=2)
    assert (read.topic, read.partition, read.offset, read.reason, read.headers) == ("\ufffd", -1, -1, "", [("x", b"")])


@pytest.mark.parametrize("digits", [pytest.param(20, id="too great"), pytest.param(5000, id="more than Python reads")])
def test_numbers_that_kafka_does_not_have_are_none(digits: int) -> None:
    headers = [(f"{deadletter.PREFIX}{name}", b"9" * digits) for name in ("partition", "offset", "timestamp")]
    read = parse(Played(7, NOW_MS, None, None, headers), partition=2)
    assert (read.partition, read.offset, read.time_ms) == (-1, -1, NOW_MS)


@pytest.mark.parametrize(
    ("name", "most"), [pytest.param("partition", 2**31 - 1, id="32 bits"), pytest.param("offset", 2**63 - 1, id="64")]
)
def test_numbers_are_read_up_to_the_greatest_that_kafka_has(name: str, most: int) -> None:
    for number, wanted in ((most, most), (most + 1, -1)):
        headers = [(f"{deadletter.PREFIX}{name}", b"%d" % number)]
        assert getattr(parse(Played(7, NOW_MS, None, None, headers), partition=2), name) == wanted


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        pytest.param(NOW_MS, "2023-11-14T22:13:20.000Z", id="a time"),
        pytest.param(NOW_MS * 1000, "1700000000000000 ms", id="microseconds for milliseconds"),
        pytest.param(-(2**60), "-1152921504606846976 ms", id="before all years"),
    ],
)
def test_any_timestamp_is_shown(time_ms: int, text: str) -> None:
    assert letter(time_ms=time_ms).time == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(None, "(none)", id="none"),
        pytest.param(b"", "", id="empty"),
        pytest.param('{"a": "é✓"}'.encode(), '{"a": "é✓"}', id="readable"),
        pytest.param(b"\x1b[2Jgone", r"\x1b[2Jgone", id="a terminal's control sequence"),
        pytest.param(b"a\n\x00\x7f", r"a\n\x00\x7f", id="control characters"),
        pytest.param(b"\xff\xfe{", r"\xff\xfe{", id="no UTF-8"),
        pytest.param(rb"\x1b", r"\\x1b", id="a backslash is told from an escape"),
        pytest.param("a\u202eb".encode(), r"a\u202eb", id="text that would run backwards"),
    ],
)
def test_bytes_are_shown_safely(raw: bytes | None, text: str) -> None:
    assert escaped(raw) == text


def test_text_from_headers_cannot_steer_a_terminal() -> None:
    assert printable("bad\x1b]0;title\x07") == r"bad\x1b]0;title\x07"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({}, None, id="valid now"),
        pytest.param({"reason": "future"}, None, id="was ahead, no longer is"),
        pytest.param({"value": b"{"}, "json", id="still no JSON"),
        pytest.param({"value": None}, "empty", id="still empty"),
        pytest.param({"key": b"bob"}, "wrong_key", id="still under another's key"),
        pytest.param({"reason": "late"}, "late", id="late stays late"),
        pytest.param({"topic": ""}, "no_source", id="nobody knows where it came from"),
        pytest.param({"partition": 0}, None, id="of the first partition"),
        pytest.param({"partition": -1}, "no_source", id="nor which partition"),
        pytest.param({"topic": "payments"}, "other_topic", id="another's topic"),
        pytest.param({"topic": "payments", "reason": "late"}, "other_topic", id="another's topic, before all else"),
    ],
)
def test_obstacles(changes: dict[str, object], why: str | None) -> None:
    assert obstacle(letter(**changes), topic="events", now_ms=NOW_MS) == why


def test_an_event_still_ahead_waits() -> None:
    assert obstacle(letter(), topic="events", now_ms=NOW_MS - MAX_AHEAD_MS - 1) == "future"


@pytest.mark.parametrize("options", [pytest.param([], id="not by itself"), pytest.param(["--force"], id="nor forced")])
def test_what_came_from_another_topic_is_never_sent(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    there = [letter(topic="payments"), letter(topic="")]
    monkeypatch.setattr(commands, "_range", lambda *_: RANGE)
    monkeypatch.setattr(commands, "_letters", lambda *_: iter(there))
    run = CliRunner().invoke(commands.dlq_app, ["redrive", "--dry-run", *options])
    assert run.exit_code == 0, run.output
    assert "0 would be sent again" in run.stdout
    assert "1 skipped, cannot be sent: other_topic" in run.stdout
    assert "1 skipped, cannot be sent: no_source" in run.stdout
    assert "--force sends" not in run.stdout


def test_a_redrive_of_nothing_tells_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "plan", lambda *_: RANGE)
    monkeypatch.setattr(letters, "read", lambda *_: iter([letter(reason="late"), letter(reason="late")]))
    run = CliRunner().invoke(commands.dlq_app, ["redrive", "--dry-run", "--reason", "lat"])
    assert run.exit_code == 0, run.output
    assert run.stdout == "no dead letters in this range with this reason; there are 2 late\n"


@pytest.mark.parametrize(
    "filters",
    [
        pytest.param(["--reason", "json"], id="a reason"),
        pytest.param(["--from", "2:0"], id="a start"),
        pytest.param(["--to", "2017-08-01"], id="an end"),
    ],
)
def test_letters_are_named_or_chosen(filters: list[str]) -> None:
    run = CliRunner().invoke(commands.dlq_app, ["redrive", "2:7", *filters], env={"COLUMNS": "200"})
    assert run.exit_code == 2
    assert "name letters, or choose them by --from, --to and --reason" in run.output


@pytest.mark.parametrize("given", ["x", "latest", "2017-08-01", "0:1,1:2", "0:-1", "0:" + 5000 * "1"])
def test_an_id_is_a_partition_and_an_offset(given: str) -> None:
    run = CliRunner().invoke(commands.dlq_app, ["show", given])
    assert isinstance(run.exception, SettingError)
    assert str(run.exception).endswith("accepted is partition:offset, as `intent dlq list` shows it")


def test_a_list_keeps_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty letters with 1 MiB each in key, value and a header: it is told how long the values are, and no more."""

    def forty(*_: object) -> Iterator[Letter]:
        for offset in range(40):
            key, value, header = (bytes(1 << 20) for _ in range(3))
            yield letter(id=f"0:{offset}", key=key, value=value, headers=[("x", header)])

    monkeypatch.setattr(commands, "_range", lambda *_: RANGE)
    monkeypatch.setattr(commands, "_letters", forty)
    CliRunner().invoke(commands.dlq_app, ["list", "--limit", "1"])  # what is loaded once does not count
    tracemalloc.start()
    try:
        run = CliRunner().invoke(commands.dlq_app, ["list", "--limit", "40", "--json"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert run.stdout.count('"value_bytes": 1048576') == 40
    assert peak < 12 << 20


def test_a_list_on_a_narrow_terminal_shows_ids_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_range", lambda *_: RANGE)
    monkeypatch.setattr(commands, "_letters", lambda *_: iter([letter(id="11:123456789", message="far " * 20)]))
    narrow = Console(width=40, file=io.StringIO())
    monkeypatch.setattr(commands, "out", narrow)
    assert CliRunner().invoke(commands.dlq_app, ["list"]).exit_code == 0
    assert isinstance(narrow.file, io.StringIO)
    shown = narrow.file.getvalue()
    assert "11:123456789" in shown
    assert "…" not in shown


def test_a_value_is_shown_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    value = b'{"words": "' + b"many of them " * 50 + b'[bold]"}'
    monkeypatch.setattr(commands, "_one", lambda *_: letter(value=value))
    run = CliRunner().invoke(commands.dlq_app, ["show", "2:7"])
    assert run.exit_code == 0, run.output
    assert run.stdout.splitlines()[-2:] == [f"value, {len(value)} bytes:", value.decode()]


def test_a_certificate_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(SettingError, match=r"the settings `kafka\.\*` are not accepted"):
        Redriver(Kafka(security_protocol="SSL", ssl_ca_file=file), dead_letters="letters")


def test_what_the_client_refuses_is_told_as_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter too large for the producer, or for a partition that the topic no longer has."""

    class Producer:
        def __init__(self, _config: object) -> None: ...

        def produce(self, *_: object, **__: object) -> None:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))

        def flush(self, _timeout_s: float) -> int:
            return 0

    monkeypatch.setattr("worker.dlq.redrive.Producer", Producer)
    with pytest.raises(IntentError, match=r"1 of 1 letters were not acknowledged .*too large"):
        Redriver(Kafka(), dead_letters="letters").send([letter()])


@dataclasses.dataclass
class FakeProducer:
    """Keeps what is queued until it is flushed, as librdkafka may."""

    queued: list[bytes] = dataclasses.field(default_factory=list)
    sent: list[bytes] = dataclasses.field(default_factory=list)
    answers: list[Callable[[None, None], None]] = dataclasses.field(default_factory=list)

    def produce(self, _topic: str, *, key: bytes, **said: Any) -> None:
        self.queued.append(key)
        self.answers.append(said["on_delivery"])

    def poll(self, _timeout_s: float) -> None: ...

    def flush(self, _timeout_s: float) -> int:
        self.sent += self.queued
        for answer in self.answers:
            answer(None, None)
        self.queued.clear()
        self.answers.clear()
        return 0


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> FakeProducer:
    made = FakeProducer()
    monkeypatch.setattr("worker.dlq.redrive.Producer", lambda _config: made)
    return made


def test_of_letters_that_are_not_all_there_none_is_sent(
    monkeypatch: pytest.MonkeyPatch, producer: FakeProducer
) -> None:
    topic = "clickstream.events.v1"
    monkeypatch.setattr(letters, "plan", lambda *_: SimpleNamespace(topic="letters"))
    monkeypatch.setattr(letters, "read", lambda *_: iter([letter(topic=topic)]))
    for wrong, says in (("2:8", "letters holds no dead letter 2:8"), ("two", "ID is 'two'")):
        run = CliRunner().invoke(commands.dlq_app, ["redrive", "2:7", wrong])
        assert isinstance(run.exception, IntentError)
        assert says in str(run.exception)
        assert (producer.queued, producer.sent) == ([], [])
    run = CliRunner().invoke(commands.dlq_app, ["redrive", "2:7", "2:7"])
    assert run.stdout == "1 sent again\n"
    assert producer.sent == [b"ann"]


def test_letters_before_one_that_cannot_be_read_are_sent(producer: FakeProducer) -> None:
    def broken() -> Iterator[Letter]:
        yield letter()
        raise IntentError("partition 1 of letters sent nothing for 60 s")

    with pytest.raises(IntentError, match="sent nothing"):
        Redriver(Kafka(), dead_letters="letters").send(broken())
    assert (producer.queued, producer.sent) == ([], [b"ann"])


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_leaves_no_letter_unsent_and_tells_how_many_were(
    monkeypatch: pytest.MonkeyPatch, producer: FakeProducer, stop: BaseException
) -> None:
    def stopped(*_: object) -> Iterator[Letter]:
        yield letter(topic="clickstream.events.v1")
        yield letter(topic="clickstream.events.v1", id="2:8")
        raise stop

    monkeypatch.setattr(commands, "_range", lambda *_: RANGE)
    monkeypatch.setattr(commands, "_letters", stopped)
    told = io.StringIO()
    monkeypatch.setattr(commands, "err", Console(file=told))
    run = CliRunner().invoke(commands.dlq_app, ["redrive"])
    assert run.exit_code == (143 if isinstance(stop, SystemExit) else 130)
    assert producer.sent == [b"ann", b"ann"]
    assert "ended early: 2 sent again, the last 2:8" in told.getvalue()
    assert "the same command with --from 2:9,3:5,5:5 does the rest" in told.getvalue()


def test_a_stop_with_letters_on_their_way_tells_no_place_to_go_on_from(
    monkeypatch: pytest.MonkeyPatch, producer: FakeProducer
) -> None:
    def stopped(*_: object) -> Iterator[Letter]:
        yield letter(topic="clickstream.events.v1")
        raise KeyboardInterrupt

    monkeypatch.setattr(producer, "flush", lambda _timeout_s: 1)
    monkeypatch.setattr(commands, "_range", lambda *_: RANGE)
    monkeypatch.setattr(commands, "_letters", stopped)
    told = io.StringIO()
    monkeypatch.setattr(commands, "err", Console(file=told))
    assert CliRunner().invoke(commands.dlq_app, ["redrive"]).exit_code == 130
    assert "ended early: 0 sent again, the last 2:7" in told.getvalue()
    assert "--from" not in told.getvalue()


@pytest.mark.parametrize(
    ("last", "left"),
    [
        pytest.param("1:5", "1:6,2:5,3:5,5:5", id="of the first partition"),
        pytest.param("3:19", "5:5", id="the last of its partition"),
        pytest.param("5:18", "5:19", id="the last but one of all"),
        pytest.param("5:19", "", id="the last of all"),
    ],
)
def test_what_is_left_of_a_range_begins_behind_the_last_letter(last: str, left: str) -> None:
    assert letters.behind(RANGE, last) == left


def test_a_stop_that_comes_while_headers_are_read_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of the CPU: it alone strikes in the middle of C code, at random."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.dlq.redrive._FLUSH_TIMEOUT_S", 0.0)
    monkeypatch.setattr("worker.dlq.redrive._STOPS", (signal.SIGVTALRM,))
    one = letter(headers=[("trace", b"1")] * 50)
    former = signal.signal(signal.SIGVTALRM, stop)
    try:
        for _ in range(30):
            redriver = Redriver(Kafka(bootstrap_servers="127.0.0.1:1"), dead_letters="letters")
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
            with pytest.raises(KeyboardInterrupt):
                redriver.send(itertools.repeat(one))
    finally:
        signal.signal(signal.SIGVTALRM, former)


def test_a_letter_goes_to_where_it_came_from_and_says_where_it_lay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is full at first: nothing is lost, and nothing sent twice."""
    sent: list[tuple[str, dict[str, object]]] = []
    config: dict[str, int] = {}

    class Full(FakeProducer):
        room = 0

        def produce(self, _topic: str, *, key: bytes, **said: object) -> None:
            if not self.room:
                raise BufferError
            self.room -= 1
            said.pop("on_delivery")
            sent.append((_topic, {"key": key, **said}))

        def poll(self, timeout_s: float) -> None:
            self.room += timeout_s > 0

    def made(given: dict[str, int]) -> Full:
        config.update(given)
        return Full()

    monkeypatch.setattr("worker.dlq.redrive.Producer", made)
    two = [letter(headers=[("trace", b"1")]), letter(id="2:8", partition=0, key=None, value=None)]
    assert Redriver(Kafka(), dead_letters="letters").send(two) == 2
    first, second = two
    assert sent == [
        (
            "events",
            {
                "key": b"ann",
                "value": first.value,
                "partition": 3,
                "headers": [("trace", b"1"), ("intent.redriven-from", b"letters-2-7")],
            },
        ),
        (
            "events",
            {"key": None, "value": None, "partition": 0, "headers": [("intent.redriven-from", b"letters-2-8")]},
        ),
    ]
    assert second.headers == [], "the letter itself is as it was"
    assert config["message.max.bytes"] > deadletter.MAX_BYTES + 1000


def test_a_letter_that_the_brokers_refuse_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(FakeProducer):
        def produce(self, _topic: str, *, key: bytes, **said: Any) -> None:
            said["on_delivery"](None if self.sent else KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), None)
            self.sent.append(key)

    monkeypatch.setattr("worker.dlq.redrive.Producer", lambda _config: Refused())
    with pytest.raises(IntentError, match=r"1 of 2 letters were not acknowledged \(1: .*authorization failed.*\)"):
        Redriver(Kafka(), dead_letters="letters").send([letter(), letter(id="2:8")])


def test_a_redrive_to_the_end_is_not_told_as_ended_early(
    monkeypatch: pytest.MonkeyPatch, producer: FakeProducer
) -> None:
    monkeypatch.setattr(producer, "flush", lambda _timeout_s: 1)
    monkeypatch.setattr(commands, "_range", lambda *_: RANGE)
    monkeypatch.setattr(commands, "_letters", lambda *_: iter([letter(topic="clickstream.events.v1")]))
    told = io.StringIO()
    monkeypatch.setattr(commands, "err", Console(file=told))
    run = CliRunner().invoke(commands.dlq_app, ["redrive"])
    assert "1 of 1 letters were not acknowledged" in str(run.exception)
    assert "ended early" not in told.getvalue()


def test_letters_that_nobody_answers_for_are_told(monkeypatch: pytest.MonkeyPatch, producer: FakeProducer) -> None:
    monkeypatch.setattr(producer, "flush", lambda _timeout_s: 1)
    with pytest.raises(IntentError, match=r"1 of 2 letters were not acknowledged \(no answer\)"):
        Redriver(Kafka(), dead_letters="letters").send([letter(), letter(id="2:8")])
