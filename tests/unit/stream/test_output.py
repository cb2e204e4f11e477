"""What a record in an output topic tells of where it comes from."""

from worker import deadletter, scores
from worker.scores import Headers
from worker.stream.output import source_offset

TOPIC = "clickstream.events.v1"


def score(topic: str, partition: int, offset: int) -> Headers:
    return scores.headers(scores.score_id(topic, partition, offset), source="a", scored_at="", type_="t")


def letter(original: Headers, topic: str, partition: int, offset: int) -> Headers:
    place = {"topic": topic, "partition": partition, "offset": offset}
    return deadletter.headers(original, **place, stage="decode", reason="json", message="no")  # type: ignore[arg-type]


def found(headers: Headers) -> int | None:
    return source_offset(headers, topic=TOPIC, partition=1)


def test_scores_and_dead_letters_tell_their_source_offset() -> None:
    assert found(score(TOPIC, 1, 48)) == 48
    assert found(letter([("trace", b"kept")], TOPIC, 1, 7)) == 7


def test_of_another_partition_topic_or_program_nothing_is_told() -> None:
    assert found(score(TOPIC, 11, 48)) is None
    assert found(score(f"{TOPIC}-1", 1, 48)) is None
    assert found(letter([], TOPIC, 2, 7)) is None
    assert found(letter([], "other", 1, 7)) is None
    assert found([]) is None
    assert found([("trace", b"1")]) is None


def test_a_letter_is_told_by_our_own_headers_whatever_its_record_brought() -> None:
    assert found(letter(score(TOPIC, 1, 3), TOPIC, 1, 7)) == 7
    assert found(letter(letter([], TOPIC, 1, 3), TOPIC, 1, 7)) == 7
    assert found(letter(score(TOPIC, 1, 3), "other", 1, 7)) is None
