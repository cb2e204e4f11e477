"""A week without an event, in seconds: what Kafka forgets of a producer, and does not where it is renewed."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer

from tests.conftest import MakeSettings
from worker.errors import Fatal
from worker.kafka.broker import EmbeddedBroker
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
