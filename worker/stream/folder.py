"""Whether a partition's RocksDB folder may be used: opened, found damaged and set aside, or outdated and begun anew.

A folder is a copy of its changelog partition up to the offset it holds, so any doubt about it is settled by rebuilding.
Owns its marks: the changelog it was filled from, when it was last known to be complete, how far the sweep has come.
Knows neither windows nor how the rebuilding goes.
"""

import datetime as dt
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import rocksdict
import structlog

from worker.errors import Fatal
from worker.kafka.topics import KAFKAS_ALPHABET, Changelog

RESERVED: Final = b"\xff"
"""Begins our own keys, behind all users: 0xff occurs in no UTF-8 text."""
OFFSET: Final = RESERVED + b"offset"
"""The last changelog offset that the folder holds, in decimal."""
COMPLETE: Final = RESERVED + b"complete"
"""When the folder last held everything of the changelog, or was begun: UTC ms in decimal."""
CHANGELOG: Final = RESERVED + b"changelog"
"""Id of the topic it was filled from. A topic deleted and created again, or of another cluster, has another."""
BROWSED: Final = RESERVED + b"browsed"
"""The user up to whom the sweep has come. If it began anew with each owner, it would never come to the last users where
owners change sooner than it is round.
"""

DAMAGED: Final = "DAMAGED"
"""A file of this name condemns the folder: damage was met while it was in use. Says what."""
_OUTDATED: Final = ".outdated"
"""Behind the name of a folder that is being removed."""
SET_ASIDE: Final = 3
"""So many damaged folders are kept, over all partitions, for whoever wants to know why."""
_LOCKED: Final = "Resource temporarily unavailable", "lock hold by current process"
"""In what RocksDB says of a folder that another process has open, or this one. Any trouble with its lock names that."""
_TRUSTED: Final = 0.5
"""Of the time that the changelog keeps tombstones: reading the rest takes time too, and clocks differ."""

log = structlog.get_logger(__name__)


def is_damage(error: BaseException) -> bool:
    """Whether RocksDB met content that is wrong or gone. A full disk, a lock or a missing permission is not damage."""
    text = str(error)
    return text.startswith(("Corruption", "IO error: No such file or directory"))


def condemn(path: Path, why: BaseException) -> None:
    """Damage was met in an open folder: the next start sets it aside."""
    with suppress(OSError):  # then the same damage is met again
        (path / DAMAGED).write_text(str(why))


def opened(
    path: Path, *, options: Callable[[], rocksdict.Options], changelog: Changelog, now_ms: Callable[[], int]
) -> rocksdict.Rdict:
    """The folder's database, empty where it was damaged or outdated. Blocks.

    Raises `Fatal`, one sentence, for a folder that was filled from another changelog or cannot be opened.
    """
    _finish_removals(path.parent)
    mark = path / DAMAGED
    if mark.exists():
        _set_aside(path, mark.read_text())
    try:
        database, offset, changelog_id, complete = _read(path, options())
    except Exception as error:
        if not is_damage(error):
            raise Fatal(_unusable(path, error)) from error
        _set_aside(path, str(error))
        database, offset, changelog_id, complete = _read(path, options())
    if offset is not None:
        filled_from = (changelog_id or b"").decode().translate(KAFKAS_ALPHABET)
        if filled_from != changelog.topic_id:
            database.close()
            raise Fatal(
                f"the state folder {path} was filled from another changelog topic (id {filled_from}; the one there now "
                f"has {changelog.topic_id}): the folder is another application's, the topic was created anew, or this "
                "is another cluster; correct `worker.data_dir` or `kafka.bootstrap_servers`, or move the folder away "
                "to begin with what the topic holds"
            )
        age_ms = abs(now_ms() - int(complete or 0))
        if age_ms <= _TRUSTED * changelog.tombstones_ms:
            return database
        # Not set aside: it may hold users who were erased meanwhile.
        log.warning("state folder outdated", folder=str(path), days=round(age_ms / 86_400_000, 1))
        database.close()
        _remove(path)
        database = rocksdict.Rdict(str(path), options=options())
    database.put(CHANGELOG, changelog.topic_id.encode())
    database.put(COMPLETE, b"%d" % now_ms())
    return database


def _read(path: Path, options: rocksdict.Options) -> tuple[rocksdict.Rdict, bytes | None, bytes | None, bytes | None]:
    """The database with its marks: one that opens may be damaged where they are."""
    database = rocksdict.Rdict(str(path), options=options)
    try:
        return database, database.get(OFFSET), database.get(CHANGELOG), database.get(COMPLETE)
    except Exception:
        database.close()
        raise


def _remove(path: Path) -> None:
    """Under another name: what is left where that is interrupted would be taken for a damaged folder, and be kept."""
    path.rename(path.with_name(path.name + _OUTDATED))
    _finish_removals(path.parent)


def _finish_removals(data_dir: Path) -> None:
    """Of any partition, since this worker may never own that one again."""
    for folder in data_dir.glob(f"*{_OUTDATED}"):
        shutil.rmtree(folder)


def _unusable(path: Path, error: Exception) -> str:
    if any(sign in str(error) for sign in _LOCKED):
        return f"the state folder {path} is in use by another process; give each worker a `worker.data_dir` of its own"
    return f"the state folder {path} cannot be opened ({error})"


def _set_aside(path: Path, why: str) -> None:
    """Out of the way, under a name that tells when; only the newest few stay."""
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.rename(path.with_name(f"{path.name}.damaged-{stamp}"))
    log.error("state folder damaged", folder=str(path), why=why, moved_to=aside.name)
    kept = sorted(path.parent.glob("*.damaged-*"), key=lambda folder: folder.name.rpartition("-")[2])
    for folder in kept[:-SET_ASIDE]:
        shutil.rmtree(folder, ignore_errors=True)
