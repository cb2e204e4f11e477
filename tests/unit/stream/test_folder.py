"""Which state folders are used, which are set aside, begun anew or refused. On a real RocksDB."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rocksdict

from worker.errors import Fatal
from worker.kafka.topics import Changelog
from worker.stream import folder
from worker.stream.rocksdb import LOGS, options

DAY_MS = 86_400_000
NOW_MS = 1_790_000_000_000
CHANGELOG = Changelog("one", tombstones_ms=7 * DAY_MS)


def opened(path: Path, *, changelog: Changelog = CHANGELOG, now_ms: int = NOW_MS) -> rocksdict.Rdict:
    return folder.opened(path, options=options, changelog=changelog, now_ms=lambda: now_ms)


def fill(path: Path, *, changelog: Changelog = CHANGELOG) -> None:
    """A folder with one user, in a file on the disk."""
    database = opened(path, changelog=changelog)
    database.put(b"ann", b"window")
    database.put(folder.OFFSET, b"7")
    database.flush()
    database.close()


def held(path: Path, **how: object) -> bytes | None:
    """The user's window after opening it again."""
    database = opened(path, **how)  # type: ignore[arg-type]  # the two that `opened` takes
    found: bytes | None = database.get(b"ann")
    database.close()
    return found


def overwrite(path: Path, pattern: str) -> None:
    (file,) = path.glob(pattern)
    file.write_bytes(b"\0" * file.stat().st_size)


def spoil(path: Path, pattern: str) -> None:
    """The first block, which holds the marks; what opening looks at stays as it is."""
    (file,) = path.glob(pattern)
    with file.open("r+b") as content:
        content.write(b"\xff" * 16)


def remove(path: Path, pattern: str) -> None:
    (file,) = path.glob(pattern)
    file.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "table overwritten": lambda path: overwrite(path, "*.sst"),
    "table's block spoilt": lambda path: spoil(path, "*.sst"),
    "table gone": lambda path: remove(path, "*.sst"),
    "manifest overwritten": lambda path: overwrite(path, "MANIFEST-*"),
    "manifest gone": lambda path: remove(path, "MANIFEST-*"),
    "current gone": lambda path: remove(path, "CURRENT"),
    "condemned while in use": lambda path: folder.condemn(path, Exception("Corruption: block checksum mismatch")),
}


def test_an_intact_folder_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "windows-0.db"
    fill(path)
    assert held(path) == b"window"
    assert [found.name for found in tmp_path.iterdir()] == ["windows-0.db"]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_set_aside_and_begun_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "windows-0.db"
    fill(path)
    damage(path)
    assert held(path) is None
    (aside,) = tmp_path.glob("windows-0.db.damaged-*")
    assert list(aside.iterdir())


def test_only_the_newest_damaged_folders_are_kept(tmp_path: Path) -> None:
    for partition in (0, 1):
        for _ in range(folder.SET_ASIDE):
            path = tmp_path / f"windows-{partition}.db"
            fill(path)
            folder.condemn(path, Exception("Corruption"))
            assert held(path) is None
    assert len(list(tmp_path.glob("windows-1.db.damaged-*"))) == folder.SET_ASIDE
    assert list(tmp_path.glob("windows-0.db.damaged-*")) == []


@pytest.mark.parametrize(
    ("away_ms", "kept"),
    [(0, True), (3 * DAY_MS, True), (4 * DAY_MS, False), (-4 * DAY_MS, False)],
    ids=["fresh", "within half of the retention", "beyond it", "written by a clock far ahead"],
)
def test_a_folder_that_may_have_missed_tombstones_is_begun_anew(tmp_path: Path, away_ms: int, kept: bool) -> None:
    path = tmp_path / "windows-0.db"
    fill(path)
    assert (held(path, now_ms=NOW_MS + away_ms) is not None) == kept
    assert list(tmp_path.iterdir()) == [path], "users who were erased meanwhile must not stay on the disk"


class Killed(BaseException):
    """Here and now."""


def test_a_removal_that_is_interrupted_is_finished_and_leaves_nothing_to_look_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a folder without some of its files is damaged; it was kept with the users who were erased."""
    path = tmp_path / "windows-0.db"
    fill(path)

    def interrupted(leaving: Path) -> None:
        (leaving / "CURRENT").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("worker.stream.folder.shutil.rmtree", interrupted)
        with pytest.raises(Killed):
            opened(path, now_ms=NOW_MS + 4 * DAY_MS)
    other = tmp_path / "windows-1.db"
    fill(other)  # the next owner of the folder may be without that partition
    assert list(tmp_path.iterdir()) == [other]
    assert held(path, now_ms=NOW_MS + 4 * DAY_MS) is None
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_what_rocksdb_says_of_itself_does_not_pile_up(tmp_path: Path) -> None:
    """Each start and each rebalance opens the folder."""
    path = tmp_path / "windows-0.db"
    for _ in range(3 * LOGS):
        opened(path).close()
    assert len(list(path.glob("LOG*"))) <= LOGS


def test_a_folder_of_another_changelog_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "windows-0.db"
    fill(path)
    with pytest.raises(
        Fatal, match=r"windows-0.db was filled from another changelog topic.*move the folder away"
    ) as told:
        opened(path, changelog=Changelog("two", tombstones_ms=7 * DAY_MS))
    assert "another application's" in str(told.value)
    assert held(path) == b"window"


def test_a_changelog_s_id_is_the_same_in_either_alphabet(tmp_path: Path) -> None:
    """A former version wrote librdkafka's."""
    path = tmp_path / "windows-0.db"
    fill(path, changelog=Changelog("o+e/", tombstones_ms=7 * DAY_MS))
    opened(path, changelog=Changelog("o-e_", tombstones_ms=7 * DAY_MS)).close()


def test_an_empty_folder_may_be_filled_from_another_changelog(tmp_path: Path) -> None:
    path = tmp_path / "windows-0.db"
    opened(path).close()
    opened(path, changelog=Changelog("two", tombstones_ms=7 * DAY_MS)).close()


def test_a_folder_in_use_stops_the_start_untouched(tmp_path: Path) -> None:
    path = tmp_path / "windows-0.db"
    database = opened(path)
    with pytest.raises(Fatal, match=r"in use by another process.*worker\.data_dir"):
        opened(path)
    database.put(b"ann", b"window")
    database.close()


def test_a_lock_that_cannot_be_opened_is_not_another_process_s(tmp_path: Path) -> None:
    """As where a former worker ran as another user."""
    path = tmp_path / "windows-0.db"
    (path / "LOCK").mkdir(parents=True)
    with pytest.raises(Fatal, match=r"cannot be opened \(IO error: .*Is a directory"):
        opened(path)


def test_a_folder_in_use_by_another_process_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "windows-0.db"
    hold = "import sys, rocksdict; held = rocksdict.Rdict(sys.argv[1], rocksdict.Options(raw_mode=True)); input()"
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE) as holder:
        try:
            while not (path / "CURRENT").exists():
                assert holder.poll() is None
            with pytest.raises(Fatal, match=r"in use by another process.*worker\.data_dir"):
                opened(path)
        finally:
            holder.kill()


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        ("Corruption: block checksum mismatch", True),
        ("IO error: No such file or directory: While open a file for random read", True),
        ("IO error: No space left on device: While appending to file", False),
        ("IO error: While lock file: /state/windows-0.db/LOCK: Resource temporarily unavailable", False),
        ("IO error: Permission denied: While open a file for random read", False),
    ],
)
def test_what_is_damage(error: str, damaged: bool) -> None:
    assert folder.is_damage(Exception(error)) == damaged


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "closed"
    path.mkdir(mode=0o500)
    with pytest.raises(Fatal, match="cannot be opened"):
        opened(path / "windows-0.db")
