"""The store on a real RocksDB: whole batches, the changelog's offset, browsing, and closing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.types import TP

from worker.errors import Fatal
from worker.kafka.topics import Changelog
from worker.stream import folder
from worker.stream.table import Table


class App(faust.App):
    """Faust's app as far as a store needs it."""


@pytest.fixture
def table(tmp_path: Path) -> Table:
    app = App("unit", datadir=tmp_path, store="rocksdb://", autodiscover=False)
    app.conf.Table = Table  # type: ignore[assignment]  # a setting that takes a class or its name
    options = {"driver": "rocksdict", "changelog": Changelog("one", tombstones_ms=7 * 86_400_000)}
    made: Any = app.Table("windows", partitions=2, key_type=bytes, value_type=bytes, options=options)
    assert isinstance(made, Table)
    return made


def test_a_batch_and_its_offset_are_one_write(table: Table) -> None:
    store = table.store
    store.write(0, [(b"a", b"1"), (b"b", b"2")], 17)
    store.write(0, [(b"a", None), (b"c", b"3")], 21)
    read = store.read(0)
    assert [read(key) for key in (b"a", b"b", b"c")] == [None, b"2", b"3"]
    assert store.persisted_offset(TP("unit-windows-changelog", 0)) == 21
    assert store.read(1)(b"b") is None


def test_no_user_can_name_the_offset(table: Table) -> None:
    store = table.store
    store.write(0, [(b"__faust\0offset__", b"not a number")], 5)
    assert store.persisted_offset(TP("unit-windows-changelog", 0)) == 5


def test_browse_goes_on_behind_a_key_and_shows_users_only(table: Table) -> None:
    store = table.store
    store.write(0, [(b"\xffwatermark", b"w"), *((name, b"1") for name in (b"a", b"a\0", b"b", "é".encode()))], 1)
    assert store.browse(0, after=b"", count=2) == [(b"a", b"1"), (b"a\0", b"1")]
    assert [key for key, _ in store.browse(0, after=b"a\0", count=9)] == [b"b", "é".encode()]
    assert store.browse(0, after="é".encode(), count=9) == []


def test_a_revoked_partition_is_closed_so_that_the_next_owner_may_open_it(table: Table) -> None:
    store = table.store
    store.write(0, [(b"a", b"1")], 1)
    held = store.read(0)  # a live reference alone must not keep the folder's lock
    store.revoke_partitions(SimpleNamespace(changelog_topic=SimpleNamespace(topics=["log"])), {TP("log", 0)})
    assert store.read(0)(b"a") == b"1"
    assert held is not None


@pytest.mark.parametrize("meet", ["a look-up", "browsing"])
def test_damage_met_in_use_condemns_the_folder(table: Table, meet: str) -> None:
    store = table.store
    store.write(0, [(b"%05d" % number, bytes(200)) for number in range(1000)], 1)
    database = store._db_for_partition(0)
    database.flush()
    store._close(0)
    path = store.partition_path(0)
    (file,) = path.glob("*.sst")
    content = bytearray(file.read_bytes())
    content[100:300] = bytes(200)
    file.write_bytes(content)
    with pytest.raises(Fatal, match="is damaged, the next start rebuilds it"):
        store.read(0)(b"%05d" % 0) if meet == "a look-up" else store.browse(0, after=b"", count=1000)
    store._close(0)
    assert (path / folder.DAMAGED).exists()
    assert store.persisted_offset(TP("unit-windows-changelog", 0)) is None


def test_only_an_owner_and_the_end_of_a_recovery_vouch_for_completeness(table: Table) -> None:
    store = table.store

    def complete() -> int:
        return int(store._db_for_partition(0).get(folder.COMPLETE))

    begun = complete()
    store.complete(0, begun - 5000)
    store.fill(0, [(b"a", b"1")], 1)
    assert complete() == begun - 5000
    store.write(0, [(b"a", b"2")], 2)
    assert complete() >= begun
