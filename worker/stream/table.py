"""The table's store: one RocksDB a source partition, written one batch at a time.

Extends `faust.stores.rocksdb.Store` (0.15.3); private parts in use: `_dbs`, `_db_for_partition`, `_open_for_partition`.
Knows neither what a window is nor when it may be written.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import faust
import rocksdict
from faust.stores.rocksdb import Store as RocksDBStore
from faust.types import TP

CACHE_BYTES: Final = 256 << 20
_WRITE_BUFFER_BYTES: Final = 32 << 20
_RESERVED: Final = b"\xff"
"""Begins our own keys, behind all users: 0xff occurs in no UTF-8 text."""


class Store(RocksDBStore):
    """Faust's store with closing databases, one shared block cache and whole batches."""

    logger = logging.getLogger("faust.table")

    offset_key = _RESERVED + b"offset"
    """Faust's own key could be a user's id."""

    _cache: rocksdict.Cache | None = None

    def read(self, partition: int) -> Callable[[bytes], bytes | None]:
        """The partition's look-up by key."""
        get: Callable[[bytes], bytes | None] = self._db_for_partition(partition).get
        return get

    def browse(self, partition: int, *, after: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """Up to `count` users behind the key `after` and their windows, in the order of keys."""
        database = self._db_for_partition(partition)
        found: list[tuple[bytes, bytes]] = []
        for key, value in database.items(from_key=after + b"\0"):
            if len(found) == count or key[:1] == _RESERVED:
                break
            found.append((key, value))
        return found

    def write(self, partition: int, items: Iterable[tuple[bytes, bytes | None]], changelog_offset: int) -> None:
        """Put, or delete where the value is `None`, all with the changelog offset that they come from, as one write.

        Not synced to disk: after a power cut an older state is found, with its offset, and the changelog fills it up.
        """
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in items:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(self.offset_key, b"%d" % changelog_offset)
        self._db_for_partition(partition).write(batch)

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        """Close the databases. Faust only drops its reference, and any other one would keep the folder's lock."""
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                self._close(tp.partition)

    async def stop(self) -> None:
        """Close all."""
        for partition in list(self._dbs):
            self._close(partition)

    def _close(self, partition: int) -> None:
        database = self._dbs.pop(partition, None)
        if database is not None:
            database.close()

    def _open_for_partition(self, partition: int) -> rocksdict.Rdict:
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_bloom_filter(10, block_based=False)
        if Store._cache is None:  # Faust's default is 2 GiB for each partition; one for the process is enough
            Store._cache = rocksdict.Cache(CACHE_BYTES)
        blocks.set_block_cache(Store._cache)
        options.set_block_based_table_factory(blocks)
        return rocksdict.Rdict(str(self.partition_path(partition)), options=options)


class Table(faust.Table[bytes, bytes]):
    """A Faust table kept in `Store`."""

    logger = logging.getLogger("faust.table")

    def _new_store_by_url(self, url: Any) -> Store:
        return Store(
            url,
            self.app,
            self,
            table_name=self.name,
            options=self.options,
            key_serializer="raw",
            value_serializer="raw",
            key_type=bytes,
            value_type=bytes,
        )

    @property
    def store(self) -> Store:
        """The table's store, by its own type."""
        data = self.data
        assert isinstance(data, Store)
        return data
