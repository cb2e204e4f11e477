"""The worker's steps for the *full* job, each by itself and in one process: what an event costs without a broker.

Every part runs the worker's own code on the events of the workload, batch by batch, with the windows that they lead to.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any, Final

import rocksdict
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

import worker.stream.consumer  # noqa: F401 - it sets aiokafka up for the worker
from loadtest.constant import Constant
from worker import events, facts, pipeline, scores, window
from worker.cache import Cache
from worker.errors import Invalid
from worker.fold import Batch, Record, fold, sweep
from worker.stream import output, rocksdb, transaction
from worker.stream.output import OutRecord
from worker.watermark import Watermark

PARTS: Final = (
    "parse the fetch",
    "decode",
    "facts",
    "fold a window",
    "read RocksDB",
    "the loop around these",
    "sweep",
    "score and rate",
    "encode scores",
    "headers",
    "render the rest",
    "append records",
    "compress records",
    "write RocksDB",
)
BATCH: Final = 2000
_TOPIC: Final = "clickstream.events.v1"
_BATCH_BYTES: Final = 16 << 20


class _Seconds(defaultdict[str, float]):
    """One batch's seconds, by part."""

    def __init__(self) -> None:
        super().__init__(float)

    def of(self, part: str, do: Callable[[], Any]) -> Any:
        """What `do` answers; its time goes to the part."""
        begin = time.perf_counter()
        answer = do()
        self[part] += time.perf_counter() - begin
        return answer


class _Sender:
    """Stands where the producer does: makes record batches as it would, and keeps what is sent."""

    def __init__(self) -> None:
        self.batches: list[BatchBuilder] = []

    def create_batch(self) -> BatchBuilder:
        """As the worker's producer is set."""
        return BatchBuilder(transaction.MAX_RECORD_BATCH_BYTES, DefaultRecordBatch.CODEC_LZ4, is_transactional=1)

    async def send_batch(self, batch: BatchBuilder, _topic: str, *, partition: int) -> Future[Any]:  # noqa: ARG002
        """Not sent, and never acknowledged."""
        self.batches.append(batch)
        return Future()


def measure(records: Sequence[tuple[bytes, bytes]], folder: Path) -> dict[str, float]:
    """Microseconds an event for each of `PARTS`, the median over batches. The first quarter fills windows only.

    `folder` is for RocksDB. Blocks for about 60 µs an event.
    """
    batches = [_Seconds() for _ in range(0, len(records) - BATCH + 1, BATCH)]
    database = rocksdict.Rdict(str(folder / "parts"), options=rocksdb.options())
    start = Watermark()
    gc.collect()
    gc.freeze()
    try:
        for number, seconds in enumerate(batches):
            at = number * BATCH
            start = _batch(seconds, records[at : at + BATCH], database, start=start, base_offset=at)
    finally:
        gc.unfreeze()
        database.close()
    steady = batches[len(batches) // 4 :]
    return {part: median(seconds[part] for seconds in steady) / BATCH * 1e6 for part in PARTS}


def _batch(
    seconds: _Seconds, pairs: Sequence[tuple[bytes, bytes]], database: Any, *, start: Watermark, base_offset: int
) -> Watermark:
    fetched = _fetched(pairs, base_offset)
    got: list[Record] = seconds.of("parse the fetch", lambda: list(_parsed(fetched, base_offset)))
    cache = Cache(database.get)
    rules = window.Rules()
    batch: Batch = seconds.of(
        "the loop around these",
        lambda: fold(got, windows=cache.window, start=start, rules=rules, mode="every"),
    )
    _inside_the_loop(seconds, got, database, rules=rules)
    browsed = list(_browsed(database, 1 + len(got) // pipeline.SWEEP_SHARE))
    seconds.of("sweep", lambda: sweep(batch, browsed, windows=cache.window, rules=rules))
    rated = seconds.of("score and rate", lambda: pipeline.ratings(Constant.of(len(batch.updated))))
    scored_at = scores.rfc3339(got[0].timestamp)
    rendered: output.Rendered = seconds.of(
        "render the rest",
        lambda: output.render(batch, rated, topic=_TOPIC, partition=0, application="intent", scored_at=scored_at),
    )
    _inside_render(seconds, batch, rated, scored_at=scored_at)
    sender = _Sender()
    for some in (rendered.changelog, rendered.scores, rendered.latest, rendered.dead_letters):
        _append(seconds, sender, some)
    seconds.of("compress records", lambda: [builder._build() for builder in sender.batches])  # noqa: SLF001
    seconds.of("write RocksDB", lambda: _write(database, batch))
    return batch.watermark


def _inside_the_loop(seconds: _Seconds, got: Sequence[Record], database: Any, *, rules: window.Rules) -> None:
    """The parts of `pipeline.fold`, each over the whole batch; what is left of it is the loop's own."""
    decoded: list[events.Event] = []

    def decode() -> None:
        for record in got:
            try:
                decoded.append(events.decode(record.value, key=record.key, timestamp_ms=record.timestamp))
            except Invalid:
                continue

    seconds.of("decode", decode)
    found = seconds.of("facts", lambda: [facts.of(event) for event in decoded])
    keys = {event.user_id.encode() for event in decoded}
    windows = seconds.of("read RocksDB", lambda: {key: database.get(key) for key in keys})
    before = []
    for event, fact in zip(decoded, found, strict=True):  # the windows that each event meets
        key = event.user_id.encode()
        before.append(windows[key])
        windows[key] = window.fold(windows[key], fact, rules=rules).window
    seconds.of(
        "fold a window", lambda: [window.fold(old, fact, rules=rules) for old, fact in zip(before, found, strict=True)]
    )
    for part in ("decode", "facts", "read RocksDB", "fold a window"):
        seconds["the loop around these"] -= seconds[part]


def _inside_render(seconds: _Seconds, batch: Batch, rated: Sequence[scores.Rating], *, scored_at: str) -> None:
    """The parts of `output.render`, likewise."""
    updated = list(zip(batch.updated, rated, strict=True))
    seconds.of(
        "encode scores",
        lambda: [
            scores.encode(
                update.event,
                update.window,
                rating,
                topic=_TOPIC,
                partition=0,
                offset=update.record.offset,
                scored_at=scored_at,
            )
            for update, rating in updated
        ],
    )
    seconds.of(
        "headers",
        lambda: [
            scores.headers(scores.score_id(_TOPIC, 0, update.record.offset), source="intent", scored_at=scored_at)
            for update, _ in updated
        ],
    )
    for part in ("encode scores", "headers"):
        seconds["render the rest"] -= seconds[part]


def _append(seconds: _Seconds, sender: _Sender, records: Sequence[OutRecord]) -> None:
    sending = transaction._send(sender, _TOPIC, 0, records)  # noqa: SLF001 - its part of the producer

    def run() -> None:
        try:
            sending.send(None)
        except StopIteration:
            return
        raise AssertionError("nothing here waits")

    seconds.of("append records", run)


def _write(database: Any, batch: Batch) -> None:
    writes = rocksdict.WriteBatch(raw_mode=True)
    for key, value in batch.changed.items():
        if value is None:
            writes.delete(key)
        else:
            writes.put(key, value)
    database.write(writes)


def _browsed(database: Any, count: int) -> Iterator[tuple[bytes, bytes]]:
    for number, item in enumerate(database.items()):
        if number == count:
            return
        yield item


def _fetched(pairs: Sequence[tuple[bytes, bytes]], base_offset: int) -> bytes:
    """The batch as a broker would answer a fetch."""
    builder = BatchBuilder(_BATCH_BYTES, 0)
    for key, value in pairs:
        assert builder.append(timestamp=None, key=key, value=value) is not None, "the batch is too large"
    fetched = bytearray(builder._build())  # noqa: SLF001 - there is no other way to its bytes
    fetched[:8] = base_offset.to_bytes(8, "big")
    return bytes(fetched)


def _parsed(fetched: bytes, base_offset: int) -> PartitionRecords:
    return PartitionRecords(
        TopicPartition(_TOPIC, 0), MemoryRecords(fetched), [], base_offset, None, None, True, READ_COMMITTED
    )
