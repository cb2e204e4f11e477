"""The table's store: one RocksDB a source partition, written one batch at a time.

Extends `faust.stores.rocksdb.Store` (0.15.3); private parts in use: `_dbs`, `_db_for_partition`, `_open_for_partition`,
`TableManager._update_channels`. Knows neither what a window is nor when it may be written.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import faust
import rocksdict
from faust.stores.rocksdb import Store as RocksDBStore
from faust.tables.manager import TableManager
from faust.types import TP

from worker.clock import now_ms
from worker.errors import Fatal
from worker.stream import folder, rocksdb

Item = tuple[bytes, bytes | None]


class Store(RocksDBStore):
    """Faust's store with closing databases, one memory bound and whole batches.

    The table's options hold the `Changelog` that its folders are copies of. Every method may block for a disk access,
    and raises `Fatal` where RocksDB fails: a damaged folder is condemned first, so that the next start rebuilds it.
    """

    logger = logging.getLogger("faust.table")

    offset_key = folder.OFFSET
    """Faust's own key could be a user's id."""

    def read(self, partition: int) -> Callable[[bytes], bytes | None]:
        """The partition's look-up by key."""
        get: Callable[[bytes], bytes | None] = self._db_for_partition(partition).get

        def look_up(key: bytes) -> bytes | None:
            try:
                return get(key)
            except Exception as error:
                raise self._failed(partition, error) from error

        return look_up

    def browse(self, partition: int, *, after: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """Up to `count` users behind the key `after` and their windows, in the order of keys."""
        found: list[tuple[bytes, bytes]] = []
        try:
            place = self._db_for_partition(partition).iter()
            place.seek(after + b"\0")
            while len(found) < count and place.valid() and (key := place.key())[:1] != folder.RESERVED:
                found.append((key, place.value()))
                place.next()
            place.status()  # damage, too, ends it: without an error where nobody asks
        except Exception as error:
            raise self._failed(partition, error) from error
        return found

    def write(self, partition: int, items: Iterable[Item], changelog_offset: int) -> None:
        """As the owner: put, or delete where the value is `None`, all with the changelog offset of the last, as one
        write.

        Not synced to disk: after a power cut an older state is found, with its offset, and the changelog fills it up.
        """
        self._write(partition, [*items, (folder.COMPLETE, b"%d" % now_ms())], changelog_offset)

    def fill(self, partition: int, items: Iterable[Item], changelog_offset: int) -> None:
        """The same with records of the changelog, read back. The store is complete only when `complete` says so."""
        self._write(partition, items, changelog_offset)

    def complete(self, partition: int, at_ms: int) -> None:
        """The store held at `at_ms` all that the changelog did."""
        try:
            self._db_for_partition(partition).put(folder.COMPLETE, b"%d" % at_ms)
        except Exception as error:
            raise self._failed(partition, error) from error

    def _write(self, partition: int, items: Iterable[Item], changelog_offset: int) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in items:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(folder.OFFSET, b"%d" % changelog_offset)
        try:
            self._db_for_partition(partition).write(batch)
        except Fatal:
            raise
        except Exception as error:
            raise self._failed(partition, error) from error

    def _failed(self, partition: int, error: Exception) -> Fatal:
        path = self.partition_path(partition)
        if not folder.is_damage(error):
            return Fatal(f"the state folder {path} cannot be used: {error}")
        folder.condemn(path, error)
        return Fatal(f"the state folder {path} is damaged, the next start rebuilds it: {error}")

    async def assign_partitions(self, table: Any, tps: set[TP], generation_id: int = 0) -> None:  # noqa: ARG002
        """Open the databases. Faust would try one that is locked 30 times; whoever restarts this process does that."""
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                self._db_for_partition(tp.partition)

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
        return folder.opened(
            self.partition_path(partition),
            options=rocksdb.options,
            changelog=cast("Mapping[str, Any]", self.options)["changelog"],
            now_ms=now_ms,
        )


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


class Tables(TableManager):
    """Faust's tables, of which all are there when it starts: it would sleep for a second in case one is made late."""

    logger = logging.getLogger("faust.tables")

    async def on_start(self) -> None:
        """Make the changelogs known; only then does Faust subscribe, and the group hear of this worker."""
        await self._update_channels()
        await self.recovery.start()
