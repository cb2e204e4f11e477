"""The dead letter: a source record kept as it came, with why it could not be used. Owns the headers that say so.

The names are those of Kafka Connect's error headers (KIP-298), so that tools which read them work here too.
"""

from typing import Final

from worker.scores import Headers

PREFIX: Final = "__connect.errors."
_MAX_MESSAGE: Final = 500


def headers(
    original: Headers, *, topic: str, partition: int, offset: int, stage: str, reason: str, message: str
) -> Headers:
    """The record's own headers, then its coordinates and the error. `message` is cut at 500 characters."""
    errors = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "stage": stage,
        "exception.class.name": reason,
        "exception.message": message[:_MAX_MESSAGE],
    }
    return [*original, *((PREFIX + name, text.encode("utf-8", "replace")) for name, text in errors.items())]
