"""What a person asked to read, looked up on the brokers. Owns what is said where these do not answer."""

from worker.kafka import clients
from worker.replay.plan import Bound, KafkaOffsets, Plan, resolve
from worker.replay.tape import reader
from worker.settings import Kafka


def look_up(kafka: Kafka, topic: str, begin: Bound, end: Bound, *, warmup_ms: int, named: str) -> Plan:
    """The plan for `[begin, end)` of a topic; `named` says by what. Blocks for seconds where Kafka is slow to answer.

    Raises `SettingError` for a topic that is not there or settings that no client takes, `IntentError` where no broker
    answers, and as `resolve` does.
    """
    trouble = clients.Trouble()
    consumer = reader(kafka, trouble)
    offsets = KafkaOffsets(consumer, named=named)
    try:
        return resolve(topic, begin, end, warmup_ms=warmup_ms, offsets=offsets)
    except ConnectionError as error:
        raise trouble.unanswered(consumer, kafka, str(error)) from None
    finally:
        consumer.close()
