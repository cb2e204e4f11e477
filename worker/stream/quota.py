"""Whether the brokers hold this worker back by a quota. They answer at once, and then read nothing more of that
connection for as long as the answer says (KIP-219). Knows nothing of what is asked and sent.

aiokafka does not look at it: its next request waits, and what bounds it would blame brokers that are well.

Replaced part of aiokafka 0.14.0: `AIOKafkaClient.send`, whose answers have `throttle_time_ms` where Kafka tells it.
"""

import time
from typing import Any, Final

import structlog
from aiokafka.client import AIOKafkaClient

_WORTH_TELLING_S: Final = 1.0
_TELL_AGAIN_S: Final = 60.0

log = structlog.get_logger(__name__)


class Quota:
    """As the brokers told it last: quotas are of a user or a client id, so of all connections of this process."""

    def __init__(self) -> None:
        self._for_s = 0.0
        self._until = self._told = float("-inf")

    def heed(self, answer: object) -> None:
        """Any answer of a broker."""
        for_s = (getattr(answer, "throttle_time_ms", None) or 0) / 1000
        if for_s < _WORTH_TELLING_S:
            return
        now = time.monotonic()
        self._for_s, self._until = for_s, now + for_s
        if now - self._told >= _TELL_AGAIN_S:
            self._told = now
            log.warning("held back by a quota of the brokers", seconds=for_s)

    def blamed(self, since: float) -> str | None:
        """What to say of a wait that began at `since` (monotonic) and is too long; `None` where no quota held it up."""
        if self._until < since:
            return None
        return (
            f"Kafka holds this worker back by a quota, for {self._for_s:g} s when it last said so: raise "
            "`producer_byte_rate`, `consumer_byte_rate` or `request_percentage` of its user or client"
        )


quota: Final = Quota()
"""This process'."""

_send = AIOKafkaClient.send


async def _heeding(client: AIOKafkaClient, *arguments: Any, **options: Any) -> Any:
    answer = await _send(client, *arguments, **options)
    quota.heed(answer)
    return answer


AIOKafkaClient.send = _heeding
