"""How far a source partition is done: the record that makes a batch's effects and its progress one thing.

It lives under a reserved key of the table's changelog partition and in its RocksDB, written in the transaction and the
write batch of the windows it belongs to. An offset means something in one topic only: Kafka gives each an id of its own
(KIP-516), which is kept beside it. Knows neither Kafka nor RocksDB.
"""

from struct import Struct
from typing import Final, NamedTuple, Self

from worker.errors import Fatal

KEY: Final = b"\xffwatermark"
"""No user's key: 0xff occurs in no UTF-8 text."""

_LAYOUTS: Final = {1: Struct("<Bqq"), 2: Struct("<Bqq22s")}
"""By version, which is the first byte. The first knew no topic."""
_VERSION: Final = 2


class Watermark(NamedTuple):
    """`offset`: the last source offset done, -1 before any. `newest_ms`: the partition's newest event time, UTC ms.
    `topic_id`: of the source, as Kafka's own tools write it; empty where none is known.
    """

    offset: int = -1
    newest_ms: int = 0
    topic_id: str = ""

    def encode(self) -> bytes:
        """39 bytes."""
        return _LAYOUTS[_VERSION].pack(_VERSION, self.offset, self.newest_ms, self.topic_id.encode())

    @classmethod
    def decode(cls, stored: bytes | None) -> Self:
        """From what `encode` wrote; `None` is a partition never read. Raises `Fatal` for anything else."""
        if stored is None:
            return cls()
        layout = _LAYOUTS.get(stored[0]) if stored else None
        if layout is None or layout.size != len(stored):
            raise Fatal("the stored watermark is unreadable; its state folder or changelog is damaged")
        _, offset, newest_ms, *topic_id = layout.unpack(stored)
        return cls(offset, newest_ms, *(part.rstrip(b"\0").decode("ascii", "replace") for part in topic_id))

    def of(self, topic: str, topic_id: str) -> Self:
        """The same, of the topic of that name and id. Raises `Fatal` where it is another's: its offsets say nothing.

        An id that is not known, here or there, fits any.
        """
        if topic_id and self.topic_id and topic_id != self.topic_id:
            raise Fatal(
                f"{topic} has the id {topic_id}, and what is done, up to offset {self.offset}, are events of a topic "
                f"with the id {self.topic_id}: it was created anew, or is another; give it an application "
                "and a folder (`worker.application_id`, `worker.data_dir`) of its own, or name the topic that was read "
                "before"
            )
        return self._replace(topic_id=topic_id or self.topic_id)
