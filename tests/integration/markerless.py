"""A worker one of whose commits Kafka acknowledges and forgets: no marker is ever written for it.

`python -m tests.integration.markerless FILE SIGNAL MORE [TOPIC]` is `tests.chaos.digest`; the first transaction that
begins while FILE exists is that one. Where MORE is 0, the process sends itself the signal at its end; where it is n,
when the n-th transaction after it is about to end, which its coordinator does know of. With TOPIC, its markers are
missing in that topic alone. The broker must not verify transactions
(`transaction.partition.verification.enable=false`), since the coordinator never hears of what is forgotten.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.sender import AddPartitionsToTxnHandler, EndTxnHandler

from tests.chaos import digest
from worker import cache


def forget(order: Path, then: signal.Signals, more: int, topic: str | None) -> None:
    """Of the producers of this process, of which there is one. `topic`: the one that is forgotten; `None` for all."""
    stores: Any = cache
    stores.WRITE_S = 0.0  # what it takes for committed it stores at once
    forgotten: list[Any] = []
    ends = 0
    begin, add, end = AIOKafkaProducer.begin_transaction, AddPartitionsToTxnHandler.do, EndTxnHandler.do

    async def begun(self: Any) -> None:
        await begin(self)
        if order.exists() and not forgotten:  # noqa: ASYNC240 - a test may wait for the disk
            forgotten.append(self._sender)

    async def added(self: Any, node_id: int) -> Any:
        if not forgotten or ends:
            return await add(self, node_id)
        for tp in [tp for tp in self._tps if topic in {None, tp.topic}]:
            self._sender._txn_manager.partition_added(tp)
        self._tps = {tp for tp in self._tps if topic not in {None, tp.topic}}
        return await add(self, node_id) if self._tps else True

    async def ended(self: Any, node_id: int) -> Any:
        nonlocal ends
        if not forgotten:
            return await end(self, node_id)
        ends += 1
        if ends > more:
            os.kill(os.getpid(), then)
        if ends > 1 or topic is not None:
            return await end(self, node_id)
        self._sender._txn_manager.complete_transaction()
        return True

    AIOKafkaProducer.begin_transaction = begun
    AddPartitionsToTxnHandler.do = added
    EndTxnHandler.do = ended


if __name__ == "__main__":
    forget(Path(sys.argv[1]), signal.Signals(int(sys.argv[2])), int(sys.argv[3]), (*sys.argv[4:], None)[0])
    digest.serve()
