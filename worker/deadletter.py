"""The dead letter: a source record kept as it came, with why it could not be used. Owns the headers that say so.

The names are those of Kafka Connect's error headers (KIP-298), so that tools which read them work here too.
"""

from typing import Final

from worker.scores import Headers

PREFIX: Final = "__connect.errors."
CUT: Final = "intent.cut-from-bytes"
"""Header of a letter that does not hold the whole record: how large that was, or the batch that could not be read. It
lies at its coordinates as it came.
"""

MAX_BYTES: Final = 15 << 20
"""Of a record's key, value and headers: what the dead-letter topic takes, less the headers of the error."""
_MAX_OFFSET: Final = (1 << 63) - 1
"""The greatest that Kafka's protocol can write; its timestamps are as wide."""
_CUT_KEY_BYTES: Final = 1 << 10
_CUT_VALUE_BYTES: Final = 128 << 10  # over what an event may have: sent again, it is too large again
_MAX_MESSAGE: Final = 500


def headers(
    original: Headers,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    stage: str,
    reason: str,
    message: str,
) -> Headers:
    """The record's own headers, then its coordinates, its timestamp (UTC ms) and the error. `message` is cut at 500
    characters.

    The letter's own timestamp is when it was written: the brokers delete by it, and a record may be old.
    """
    errors = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "timestamp": str(timestamp_ms),
        "stage": stage,
        "exception.class.name": reason,
        "exception.message": message[:_MAX_MESSAGE],
    }
    return [*original, *((PREFIX + name, text.encode("utf-8", "replace")) for name, text in errors.items())]


def number(text: str, *, most: int = _MAX_OFFSET) -> int:
    """What a header says; -1 for what is no number, and for one above `most`: any producer may have written it."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(most)):
        return -1
    return told if (told := int(text)) <= most else -1


def bounded(key: bytes | None, value: bytes | None, headers: Headers) -> tuple[bytes | None, bytes | None, Headers]:
    """A record's key, value and headers as they came; where they exceed `MAX_BYTES`, their beginnings and `CUT`.

    A letter that the topic refuses would stop the stream for good.
    """
    size = (
        len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(text or b"") + 10 for name, text in headers)
    )
    if size <= MAX_BYTES:
        return key, value, headers
    return (
        key if key is None else key[:_CUT_KEY_BYTES],
        value if value is None else value[:_CUT_VALUE_BYTES],
        [(CUT, b"%d" % size)],
    )
