"""Batches that take next to nothing packed, and all memory unpacked: a real Kafka takes them from whoever may write."""

import asyncio
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cramjam
import pytest
from aiokafka import AIOKafkaProducer, codec
from aiokafka.record.default_records import DefaultRecordBase
from aiokafka.record.util import calc_crc32c, encode_varint

from tests.conftest import MakeSettings
from tests.integration.deployment import DIGEST, ROOT, Worker, publish, read_all, until
from tests.integration.stories import event
from worker.clock import now_ms
from worker.errors import IntentError
from worker.ports import free_port
from worker.replay.plan import Stretch
from worker.replay.tape import Tape, reader

pytestmark = pytest.mark.broker

START_MS = 1_760_000_000_000
COUNT = 512
LETTER = "__connect.errors."


def bomb() -> bytes:
    """`COUNT` records of a megabyte, 60 bytes each once packed."""
    value = bytes(1 << 20)
    return batch(
        DefaultRecordBase.CODEC_ZSTD,
        COUNT,
        b"".join(bytes(cramjam.zstd.compress(record(place, value))) for place in range(COUNT)),
    )


def two_frames() -> bytes:
    """Of which Kafka reads the first alone, and finds all records in it."""
    records = record(0, b"{") + record(1, b"{")
    return batch(DefaultRecordBase.CODEC_LZ4, 2, bytes(codec.lz4_encode(records)) + b"no frame")


def far_ahead() -> bytes:
    """Of which Kafka takes a record that says to lie a thousand offsets on."""
    return batch(DefaultRecordBase.CODEC_NONE, 2, record(1000, b"{") + record(1, b"{"))


def batch(kind: int, count: int, packed: bytes) -> bytes:
    now = now_ms()
    head = struct.pack(">hiqqqhii", kind, count - 1, now, now, -1, -1, -1, count)
    signed = head + packed
    return struct.pack(">qiibI", 0, len(signed) + 9, 0, 2, calc_crc32c(signed)) + signed


def record(place: int, value: bytes) -> bytes:
    body = b"\0\0" + varint(place) + varint(3) + b"ann" + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def varint(number: int) -> bytes:
    written = bytearray()
    encode_varint(number, written.append)
    return bytes(written)


async def send(servers: str, topic: str, made: bytes, count: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=False)
    await producer.start()
    sent: Any = producer.create_batch()
    sent._builder = SimpleNamespace(build=lambda: bytearray(made))
    sent._relative_offset = count
    sent._closed = True
    await (await producer.send_batch(sent, topic, partition=0))
    await producer.stop()


def peak_mib(worker: Worker) -> int:
    assert worker.process is not None
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) >> 10


def told(headers: dict[str, bytes]) -> tuple[int, str]:
    return int(headers[f"{LETTER}offset"]), headers[f"{LETTER}exception.class.name"].decode()


def test_a_bomb_among_good_events_costs_its_own_events_and_no_others(settings: MakeSettings, tmp_path: Path) -> None:
    made = settings(topics={"partitions": 1}, worker={"web_port": free_port(), "instance_id": "only"})
    servers, topic = made.kafka.bootstrap_servers, made.topics.events
    good = [event("ann", number, START_MS + number) for number in range(20)]
    worker = Worker(made, tmp_path / "worker.log", command=DIGEST, environment={"PYTHONPATH": str(ROOT)})
    try:
        worker.start()
        publish(servers, topic, good[:10])
        until(lambda: len(read_all(servers, made.topics.scores)) == 10, worker, "what is before it is scored")
        before = peak_mib(worker)
        asyncio.run(send(servers, topic, bomb(), COUNT))
        publish(servers, topic, good[10:])
        until(lambda: len(read_all(servers, made.topics.scores)) == 20, worker, "what is behind it is scored")
        assert peak_mib(worker) < before + 100
        letters = read_all(servers, made.topics.dead_letters)
        assert [told(letter.headers) for letter in letters] == [(10 + n, "too_large") for n in range(COUNT)]
        assert {(letter.key, letter.value) for letter in letters} == {(None, None)}
        assert 0 < int(letters[0].headers["intent.cut-from-bytes"]) < 1 << 20
        assert sum(worker.metric("intent_events_total").values()) == 20 + COUNT
        assert [line["records"] for line in worker.told("a batch of records cannot be read")] == [COUNT]
        for at, damaged in ((20, two_frames()), (21, far_ahead())):
            asyncio.run(send(servers, topic, damaged, 2))
            publish(servers, topic, [event("ann", at, START_MS + at)])
            until(lambda: len(read_all(servers, made.topics.scores)) > at, worker, "it goes on behind what is damaged")  # noqa: B023 - waited for
        letters = read_all(servers, made.topics.dead_letters)[COUNT:]
        assert [told(letter.headers) for letter in letters] == [(COUNT + n, "unreadable") for n in (20, 21, 23, 24)]
        assert worker.stop() == 0
        with pytest.raises(IntentError, match="cannot be read on: Decompression"):
            list(Tape(reader(made.kafka), topic, Stretch(partition=0, warm_from=0, start=0, end=20 + COUNT)))
        behind = 10 + COUNT
        rest = Stretch(partition=0, warm_from=behind, start=behind, end=behind + 10)
        assert len(list(Tape(reader(made.kafka), topic, rest))) == 10, "a replay may leave it out"
    finally:
        worker.close()
