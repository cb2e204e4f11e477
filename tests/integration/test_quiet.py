"""What comes of nothing happening for long: a week in seconds, ten minutes in five."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.conftest import MakeSettings
from tests.integration.deployment import Worker, until
from worker.errors import Fatal
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port
from worker.settings import Settings
from worker.stream import transaction
from worker.stream.output import OutRecord

pytestmark = pytest.mark.broker

WEEK_S = 3.0


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka whose week and whose day are over at once."""
    properties = {
        "transactional.id.expiration.ms": f"{1000 * WEEK_S:.0f}",
        "transaction.remove.expired.transaction.cleanup.interval.ms": "200",
        "producer.id.expiration.ms": "1000",
        "producer.id.expiration.check.interval.ms": "200",
    }
    with EmbeddedBroker(tmp_path_factory.mktemp("forgetful"), properties=properties) as broker:
        yield broker.bootstrap_servers


async def commit(sender: AIOKafkaProducer, own: Settings) -> None:
    async with asyncio.timeout(30):
        await transaction.commit(sender, {own.changelog: [OutRecord(b"ann", b"window", [])]}, partition=0)


@pytest.mark.parametrize("renewed", [True, False])
def test_a_producer_is_forgotten_in_a_quiet_week_unless_it_is_renewed(
    settings: MakeSettings, forgetful: str, *, renewed: bool
) -> None:
    own = settings(kafka={"bootstrap_servers": forgetful}, topics={"partitions": 1})

    async def quiet() -> None:
        sender = transaction.producer(own, 0)
        await sender.start()
        try:
            await commit(sender, own)
            begin = time.monotonic()
            while time.monotonic() < begin + 2 * WEEK_S:
                await asyncio.sleep(WEEK_S / 6)
                if renewed:
                    await transaction.renew(sender, [own.changelog], partition=0)
            await commit(sender, own)
        finally:
            await sender.stop()

    if renewed:
        asyncio.run(quiet())
    else:
        with pytest.raises(Fatal, match="InvalidProducerIdMapping"):
            asyncio.run(quiet())


def test_a_worker_without_a_partition_stays_in_its_group(settings: MakeSettings, kafka: str, tmp_path: Path) -> None:
    """It fetches nothing, for which aiokafka leaves the group; with each change of the group all partitions pause.

    It would do so again and again, and never stay for as long as is looked here. On a busy machine the members may be
    late for each other at first, or a page may not be answered.
    """
    limits = {"recovery_timeout_s": 5.0, "session_timeout_s": 6.0}
    made = settings(kafka={"bootstrap_servers": kafka}, topics={"partitions": 1}, worker=limits)
    workers: list[Worker] = []
    stood: list[float] = []
    since = time.monotonic()

    def rest() -> bool:
        """Whether both have heard of each other, and of no rebalance for longer than three times the limit."""
        nonlocal stood, since
        heard = [sum(worker.metric("intent_rebalances_total").values()) for worker in workers]
        if not all(heard):
            return False
        if heard != stood:
            stood, since = heard, time.monotonic()
        return sum(stood) >= 3 and time.monotonic() - since > 3 * limits["recovery_timeout_s"]

    try:
        for name in ("one", "other"):
            own = {"data_dir": tmp_path / name, "web_port": free_port()}
            mine = made.model_copy(update={"worker": made.worker.model_copy(update=own)})
            workers.append(Worker(mine, tmp_path / f"{name}.log"))
            workers[-1].start()
        until(rest, workers[0], "the group rests")
        shares = [0, 1]
        until(
            lambda: sorted(len(worker.metric("intent_watermark_offset")) for worker in workers) == shares,
            workers[0],
            "one has the partition, the other has none",
        )
    finally:
        for worker in workers:
            worker.close()
