"""What a person asked to read, looked up on the brokers. Owns what is said where these do not answer."""

from worker.errors import IntentError
from worker.replay.plan import Bound, KafkaOffsets, Plan, resolve
from worker.replay.tape import reader
from worker.settings import Kafka


def look_up(kafka: Kafka, topic: str, begin: Bound, end: Bound, *, warmup_ms: int, setting: str) -> Plan:
    """The plan for `[begin, end)` of a topic, which `setting` names. Blocks for seconds where Kafka is slow to answer.

    Raises `SettingError` for a topic that is not there, `IntentError` where no broker answers, and as `resolve` does.
    """
    consumer = reader(kafka)
    offsets = KafkaOffsets(consumer, setting=setting)
    try:
        return resolve(topic, begin, end, warmup_ms=warmup_ms, offsets=offsets)
    except ConnectionError as error:
        raise IntentError(
            f"Kafka at {kafka.bootstrap_servers} (setting `kafka.bootstrap_servers`) does not answer ({error}); "
            "is it running? `intent broker start` starts one here"
        ) from None
    finally:
        consumer.close()
