"""What a batch sees of the batches before it, and what is written of them, when."""

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import cache
from worker.cache import Cache, Changes
from worker.fold import Batch
from worker.watermark import Watermark

KEYS = (b"a", b"b", b"c")


class Table:
    """What was written, and with which offsets."""

    def __init__(self, windows: Mapping[bytes, bytes] | None = None) -> None:
        self.windows = dict(windows or {})
        self.writes: list[tuple[int, int]] = []
        self.reads = 0

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        return self.windows.get(key)

    def store(self, windows: Changes, watermark: Watermark, changelog_offset: int) -> None:
        self.writes.append((watermark.offset, changelog_offset))
        for key, window in windows.items():
            if window is None:
                self.windows.pop(key, None)
            else:
                self.windows[key] = window


def batch(changed: dict[bytes, bytes | None], offset: int = 0) -> Batch:
    return Batch(changed=changed, watermark=Watermark(offset))


def publish(cache_: Cache, changed: dict[bytes, bytes | None], offset: int, changelog_offset: int) -> None:
    """A batch that is folded and published."""
    cache_.add(changed)
    cache_.published(batch(changed, offset), changelog_offset)


def test_a_batch_is_seen_at_once_and_written_once_it_is_published() -> None:
    table = Table({b"a": b"0", b"b": b"0"})
    mine = Cache(table.get)
    changed: dict[bytes, bytes | None] = {b"a": b"1", b"b": None}
    mine.add(changed)
    mine.write(table.store)
    assert (mine.window(b"a"), mine.window(b"b"), table.writes) == (b"1", None, [])
    mine.published(batch(changed, 7), 70)
    mine.write(table.store)
    assert (table.windows, table.writes) == ({b"a": b"1"}, [(7, 70)])
    mine.write(table.store)
    assert len(table.writes) == 1


def test_batches_are_written_together_each_user_once() -> None:
    table = Table()
    mine = Cache(table.get)
    for number in range(3):
        changed: dict[bytes, bytes | None] = {b"a": b"%d" % number, b"only %d" % number: b"x"}
        publish(mine, changed, number, 10 * number)
    mine.write(table.store)
    assert table.writes == [(2, 20)]
    assert table.windows == {b"a": b"2", b"only 0": b"x", b"only 1": b"x", b"only 2": b"x"}


def test_what_was_written_last_is_not_read_again() -> None:
    table = Table()
    mine = Cache(table.get)
    publish(mine, {b"a": b"1"}, 0, 1)
    mine.write(table.store)
    assert mine.window(b"a") == b"1"
    assert table.reads == 0


def test_it_is_due_by_size_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = Table()
    mine = Cache(table.get)
    due = []
    for value in (b"1", bytes(cache.WRITE_BYTES - 2), bytes(cache.WRITE_BYTES - 1)):  # with their key: 1 less, and all
        publish(mine, {b"a": value}, 0, 1)
        due.append(mine.due)
        mine.write(table.store)
        due.append(mine.due)
    now[0] += cache.WRITE_S
    assert [*due, mine.due] == [True, False, False, False, True, False, True]


def test_windows_are_written_a_second_after_the_last_or_once_they_are_a_mebibyte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the README says: it is what a killed worker reads back at most, and what a partition holds in memory."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = Table()
    mine = Cache(table.get)
    publish(mine, {b"a": b"1"}, 0, 1)
    mine.write(table.store)
    publish(mine, {b"a": b"2"}, 1, 2)
    due = []
    for now[0] in (100.0, 100.99, 101.0):
        due.append(mine.due)
    now[0] = 100.99
    for size in (1_048_572, 0):  # and three users' names of one byte, and a window of one
        publish(mine, {b"b": bytes(size)}, 2, 3)
        due.append(mine.due)
    assert due == [False, False, True, False, True]


def test_an_older_batch_that_is_published_does_not_hide_a_newer_one_that_says_the_same() -> None:
    """Erased, back, erased again: in three batches, of which the first two are published and written in turn."""
    mine = Cache(Table().get)
    batches: list[Batch] = [batch({b"a": window}, number) for number, window in enumerate((None, b"1", None))]
    for each in batches:
        mine.add(each.changed)
    for each in batches[:2]:
        mine.published(each, each.watermark.offset)
        mine.write(Table().store)
    assert mine.window(b"a") is None


@given(
    st.lists(
        st.one_of(
            st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=2)), max_size=3),
            st.sampled_from(["publish", "write"]),
        ),
        max_size=30,
    )
)
def test_at_any_time_it_shows_the_newest_window_and_the_table_a_published_state(
    steps: list[dict[bytes, bytes | None] | str],
) -> None:
    """Batches are published in the order in which they were folded; writing may come whenever it likes."""
    table = Table()
    mine = Cache(table.get)
    newest: dict[bytes, bytes | None] = {}
    waiting: list[Batch] = []
    states: dict[int, dict[bytes, bytes]] = {}
    number = 0
    for step in steps:
        if isinstance(step, dict):
            number += 1
            mine.add(step)
            waiting.append(batch(step, number))
            newest |= step
            states[number] = {key: window for key, window in newest.items() if window is not None}
        elif step == "publish" and waiting:
            done = waiting.pop(0)
            mine.published(done, done.watermark.offset)
        elif step == "write":
            mine.write(table.store)
            if table.writes:
                assert table.windows == states[table.writes[-1][0]]
        assert [mine.window(key) for key in KEYS] == [newest.get(key) for key in KEYS]
