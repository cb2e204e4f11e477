"""A worker one of whose commits Kafka acknowledges and forgets: no marker is ever written for it.

`python -m tests.integration.markerless FILE SIGNAL` is `tests.chaos.digest`; the first transaction that begins while
FILE exists is that one, and at its end the process sends itself the signal. The broker must not verify transactions
(`transaction.partition.verification.enable=false`), since the coordinator never hears of this one.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.sender import AddPartitionsToTxnHandler, EndTxnHandler

from tests.chaos import digest


def forget(order: Path, then: signal.Signals) -> None:
    """Of the producers of this process."""
    forgotten: list[Any] = []
    begin, add, end = AIOKafkaProducer.begin_transaction, AddPartitionsToTxnHandler.do, EndTxnHandler.do

    async def begun(self: Any) -> None:
        await begin(self)
        if order.exists() and not forgotten:  # noqa: ASYNC240 - a test may wait for the disk
            forgotten.append(self._sender)

    async def added(self: Any, node_id: int) -> Any:
        if self._sender not in forgotten:
            return await add(self, node_id)
        for tp in list(self._tps):
            self._sender._txn_manager.partition_added(tp)
        return True

    async def ended(self: Any, node_id: int) -> Any:
        if self._sender not in forgotten:
            return await end(self, node_id)
        self._sender._txn_manager.complete_transaction()
        os.kill(os.getpid(), then)
        return True

    AIOKafkaProducer.begin_transaction = begun
    AddPartitionsToTxnHandler.do = added
    EndTxnHandler.do = ended


if __name__ == "__main__":
    forget(Path(sys.argv[1]), signal.Signals(int(sys.argv[2])))
    digest.serve()
