"""The store on a real RocksDB: whole batches, the changelog's offset, browsing, and closing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.types import TP

from worker.stream.table import Table


class App(faust.App):
    """Faust's app as far as a store needs it."""


@pytest.fixture
def table(tmp_path: Path) -> Table:
    app = App("unit", datadir=tmp_path, store="rocksdb://", autodiscover=False)
    app.conf.Table = Table  # type: ignore[assignment]  # a setting that takes a class or its name
    made: Any = app.Table("windows", partitions=2, key_type=bytes, value_type=bytes, options={"driver": "rocksdict"})
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
