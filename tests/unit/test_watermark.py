"""The watermark's codec, and which topic its offsets are of."""

import struct

import pytest

from worker.errors import Fatal
from worker.watermark import Watermark

ID = "JnVd-cvLTUKTZbmkqcHb_A"
OTHER = "MkU3OEVBNTcwNTJENDM2Qg"

MARKS = [Watermark(), Watermark(41, 1_760_000_000_000), Watermark(2**62, -1, ID)]


@pytest.mark.parametrize("mark", MARKS, ids=str)
def test_what_is_written_is_read(mark: Watermark) -> None:
    assert len(mark.encode()) == 39
    assert Watermark.decode(mark.encode()) == mark


def test_a_partition_never_read_has_nothing_done() -> None:
    assert Watermark.decode(None) == Watermark(-1, 0, "")


def test_the_layout_without_a_topic_is_read() -> None:
    assert Watermark.decode(struct.pack("<Bqq", 1, 41, 7)) == Watermark(41, 7)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x01",
        struct.pack("<Bqq", 2, 41, 7),
        struct.pack("<Bqq22s", 1, 41, 7, ID.encode()),
        struct.pack("<Bqq22s", 3, 41, 7, ID.encode()),
        Watermark(41, 7, ID).encode() + b"\0",
    ],
    ids=["empty", "short", "second without a topic", "first with a topic", "unknown version", "long"],
)
def test_anything_else_is_damage(stored: bytes) -> None:
    with pytest.raises(Fatal, match="the stored watermark is unreadable"):
        Watermark.decode(stored)


@pytest.mark.parametrize(
    ("kept", "there", "then"),
    [(ID, ID, ID), ("", ID, ID), (ID, "", ID), ("", "", "")],
    ids=["the same", "kept by a former version", "brokers that tell none", "neither"],
)
def test_it_goes_on_in_its_topic(kept: str, there: str, then: str) -> None:
    assert Watermark(41, 7, kept).of("events", there) == Watermark(41, 7, then)


def test_another_topic_is_refused_by_both_ids() -> None:
    with pytest.raises(Fatal) as refused:
        Watermark(41, 7, ID).of("events", OTHER)
    assert str(refused.value) == (
        f"events has the id {OTHER}, and what is done, up to offset 41, are events of a topic with the id {ID}: it was "
        "created anew, or is another; give it an application and a folder (`worker.application_id`, `worker.data_dir`) "
        "of its own, or name the topic that was read before"
    )
