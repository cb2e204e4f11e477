"""What a batch becomes in the output topics, and what a record there tells of where it comes from."""

from dataclasses import dataclass, field

import pytest

from worker import deadletter, facts, scores, watermark, window
from worker.dlq.letters import parse
from worker.dlq.redrive import obstacle
from worker.errors import Invalid
from worker.events import Event
from worker.fold import Batch, Rejected, Unread, Updated
from worker.replay.tape import Played
from worker.scores import Headers, Intent, Model, Rating, Risk
from worker.stream.output import OutRecord, render, source_offset
from worker.watermark import Watermark

TOPIC = "clickstream.events.v1"


def score(topic: str, partition: int, offset: int) -> Headers:
    return scores.headers(scores.score_id(topic, partition, offset), source="a", scored_at="", type_="t")


def letter(original: Headers, topic: str, partition: int, offset: int) -> Headers:
    return deadletter.headers(
        original,
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=5,
        stage="decode",
        reason="json",
        message="no",
    )


def found(headers: Headers) -> int | None:
    return source_offset(headers, topic=TOPIC, partition=1)


def test_scores_and_dead_letters_tell_their_source_offset() -> None:
    assert found(score(TOPIC, 1, 48)) == 48
    assert found(score(TOPIC, 1, 0)) == 0
    assert found(letter([("trace", b"kept")], TOPIC, 1, 7)) == 7
    assert found([("none", None), *score(TOPIC, 1, 48)]) == 48


def test_of_another_partition_topic_or_program_nothing_is_told() -> None:
    assert found(score(TOPIC, 11, 48)) is None
    assert found(score(f"{TOPIC}-1", 1, 48)) is None
    assert found(letter([], TOPIC, 2, 7)) is None
    assert found(letter([], "other", 1, 7)) is None
    assert found([]) is None
    assert found([("trace", b"1")]) is None


@pytest.mark.parametrize("offset", ["x", "", "-7", "9" * 5000], ids=["a word", "nothing", "below 0", "too long"])
def test_an_offset_that_is_none_is_another_program_s(offset: str) -> None:
    assert found([("ce_id", f"{TOPIC}-1-{offset}".encode())]) is None
    assert found([*letter([], TOPIC, 1, 7), (f"{deadletter.PREFIX}offset", offset.encode())]) is None


def test_a_letter_is_told_by_our_own_headers_whatever_its_record_brought() -> None:
    assert found(letter(score(TOPIC, 1, 3), TOPIC, 1, 7)) == 7
    assert found(letter(letter([], TOPIC, 1, 3), TOPIC, 1, 7)) == 7
    assert found(letter(score(TOPIC, 1, 3), "other", 1, 7)) is None


@dataclass(frozen=True)
class Bad:
    offset: int
    timestamp: int
    key: bytes | None = b"ann"
    value: bytes | None = b"{"
    headers: Headers = field(default_factory=list)


def folded() -> tuple[Batch, list[Rating]]:
    """Two events of one user, of whom the second is the newest; one who was erased."""
    batch, model = Batch(watermark=Watermark(9, 2, "topic")), Model("m", "1")
    state = None
    for number in (1, 2):
        event = Event(f"e{number}", "ann", number, "view_item")
        state = window.fold(state, facts.of(event), rules=window.Rules()).window
        batch.updated.append(Updated(Bad(number + 6, 17), event, state))
    batch.changed |= {b"ann": state, b"bob": None}
    batch.latest |= {b"ann": 1, b"bob": None}
    return batch, [Rating(Intent(0.1 * n, 0.2, 0.3), Risk(0.0, ()), (), model) for n in (1, 2)]


def test_a_batch_is_its_scores_the_newest_of_each_user_and_what_changed_with_the_watermark_last() -> None:
    batch, ratings = folded()
    made = render(batch, ratings, topic=TOPIC, partition=1, application="a", scored_at="now")
    read = [scores.decode(record.value or b"") for record in made.scores]
    assert [(one.score_id, one.event_id, one.intent.purchase_30m) for one in read] == [
        (f"{TOPIC}-1-7", "e1", 0.1),
        (f"{TOPIC}-1-8", "e2", 0.2),
    ]
    assert [one.window.events for one in read] == [1, 2]
    assert [(record.key, found(record.headers)) for record in made.scores] == [(b"ann", 7), (b"ann", 8)]
    assert made.latest == [made.scores[1], OutRecord(b"bob", None, [])]
    assert made.dead_letters == []
    assert made.changelog == [
        OutRecord(b"ann", batch.changed[b"ann"], []),
        OutRecord(b"bob", None, []),
        OutRecord(watermark.KEY, batch.watermark.encode(), []),
    ]


def test_each_updated_window_has_a_rating() -> None:
    batch, ratings = folded()
    with pytest.raises(ValueError, match="shorter"):
        render(batch, ratings[:1], topic=TOPIC, partition=1, application="a", scored_at="now")


def test_a_dead_letter_tells_when_its_record_was_written() -> None:
    batch = Batch(rejected=[Rejected(Bad(7, timestamp=1234), "decode", "json", "no")])
    (dead,) = render(batch, [], topic=TOPIC, partition=1, application="a", scored_at="").dead_letters
    read = parse(Played(0, 99, dead.key, dead.value, dead.headers), partition=1)
    assert (read.time_ms, read.offset, read.headers) == (1234, 7, [])


def test_the_letter_of_a_record_that_was_not_read_says_that_it_does_not_hold_it() -> None:
    unread = Unread(7, 1234, 300, Invalid("too_large", "its batch is too large"))
    batch = Batch(rejected=[Rejected(unread, "decode", unread.why.reason, str(unread.why))])
    (dead,) = render(batch, [], topic=TOPIC, partition=1, application="a", scored_at="").dead_letters
    read = parse(Played(0, 99, dead.key, dead.value, dead.headers), partition=1)
    assert (read.time_ms, read.source, read.key, read.value) == (1234, f"{TOPIC}-1-7", None, None)
    assert (read.reason, read.headers) == ("too_large", [(deadletter.CUT, b"300")])
    assert obstacle(read, topic=TOPIC, now_ms=1234) == "empty", "sent again, it would only be empty"
