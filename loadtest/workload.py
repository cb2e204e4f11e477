"""The events of the two jobs, and the way into their topics. Repeatable; knows nothing of who reads them."""

import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from confluent_kafka import Producer

from loadtest.contenders.task import Job
from worker.errors import IntentError, SettingError
from worker.kafka import clients
from worker.settings import Kafka
from worker.shop import ga360, statistics
from worker.shop.simulate import Crowd, Simulator

USERS: Final = 10_000
POISON_EVERY: Final = 1000
"""One event of *full* in so many cannot be read: dead letters are part of the job."""

_SAMPLE: Final = Path("../shared/data/ga360")
_SEED: Final = 1
_LIGHT_KINDS: Final = ("view_item", "page_view", "add_to_cart", "search", "select_item")
_LIGHT_START_MS: Final = 1_700_000_000_000
_SIMULATED_RATE: Final = 20_000.0
_BY_KEY: Final = -1
"""In place of a partition."""


class Workload(NamedTuple):
    """Keys and values in their order; `source` says where they are from."""

    records: list[tuple[bytes, bytes]]
    source: str

    def dead(self, count: int) -> int:
        """How many of the first `count` are not to be read."""
        return count // POISON_EVERY if self.source != "made up" else 0


def sample_folder() -> Path | None:
    """Where the real sample is: `INTENT_GA360`, whatever is there, or beside the checkout; None where it is not."""
    if named := os.environ.get("INTENT_GA360"):
        return Path(named)  # a wrong name is to be told, not simulated
    return _SAMPLE if (_SAMPLE / "hits.parquet").exists() else None


def needed_sample(sample: Path | None) -> Path:
    """The folder, or that of `sample_folder`; for studies, which there are none of without it."""
    source = sample or sample_folder()
    if source is None:
        raise SettingError("the study needs the GA360 sample: name its folder with --sample or INTENT_GA360")
    return source


def make(job: Job, count: int, *, sample: Path | None) -> Workload:
    """The first `count` events of the job. *full* takes the real sample, in its order, or simulated shoppers."""
    if job == "light":
        return Workload(list(islice(_light(), count)), "made up")
    if sample is None:
        crowd = Crowd(rate=_SIMULATED_RATE, users=USERS)
        shop = Simulator(statistics.load(), crowd, seed=_SEED, start_ms=_LIGHT_START_MS)
        records = [(sent.key or b"", sent.value or b"") for sent in islice(shop, count)]
        return Workload(_poisoned(records), "simulated shoppers")
    from worker import events

    real = opened(sample, count)
    records = [(event.user_id.encode(), events.encode(event)) for event in islice(real.events(), count)]
    return Workload(_poisoned(records), "the GA360 sample")


def opened(folder: Path, count: int) -> ga360.Sample:
    """The real sample. Raises `IntentError` where it is none, or has fewer events than so many."""
    real = ga360.Sample(folder)
    if count > len(real):
        raise IntentError(f"the sample has {len(real):,} events; {count:,} are wanted: ask for fewer")
    return real


def _poisoned(records: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    for place in range(POISON_EVERY - 1, len(records), POISON_EVERY):
        key, value = records[place]
        records[place] = key, value[:-1]
    return records


def _light() -> Iterator[tuple[bytes, bytes]]:
    """Events of about 150 bytes, of `USERS` users in no order."""
    rng, number = random.Random(_SEED), 0
    while True:
        user = f"user-{rng.randrange(USERS):06d}"
        item = {"item_id": f"sku-{rng.randrange(5000):05d}", "price": rng.randrange(300) + 0.99, "quantity": 1}
        event = {
            "event_id": f"e{number:08d}",
            "user_id": user,
            "event_time": _LIGHT_START_MS + number * 37,
            "type": rng.choice(_LIGHT_KINDS),
            "items": [item],
        }
        yield user.encode(), json.dumps(event, separators=(",", ":")).encode()
        number += 1


def publish(kafka: Kafka, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
    """All of them, keyed as every Kafka client keys by default. Blocks until they are acknowledged."""
    put(kafka, topic, ((key, value, _BY_KEY) for key, value in records))


def put(kafka: Kafka, topic: str, records: Iterable[tuple[bytes, bytes, int]], *, compression: str = "none") -> None:
    """(key, value, partition) each. Blocks until all are acknowledged. Raises `IntentError` when one is not."""
    failed: list[str] = []
    producer = Producer(
        {
            **clients.librdkafka(kafka),
            "enable.idempotence": True,
            "compression.type": compression,
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
        }
    )
    for key, value, partition in records:
        while True:
            try:
                producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    on_delivery=lambda error, _: failed.append(error.str()) if error else None,
                )
                break
            except BufferError:
                producer.poll(0.1)
    left = producer.flush(60)
    if failed or left:
        raise IntentError(f"{topic}: {failed[0] if failed else f'{left} records were not acknowledged'}")
