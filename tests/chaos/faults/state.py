"""The local state is full, gone or damaged; the changelog that rebuilds it is compacted."""

import os
import random
import resource
from pathlib import Path

from tests.chaos.admin import compacted
from tests.chaos.workers import START_S, Place, forget
from tests.chaos.world import Broken, World, await_

_STARVED_S = 30.0
_CLEANED_S = 60.0
_DAY_MS = 86_400_000


def disk_full(world: World, rng: random.Random) -> str:
    """No file of a running worker may grow: it has to end non-zero; started again, it may write."""
    with world.workers.one(rng) as place:
        pid, before = place.pid, len(place.exits)
        if pid is None:
            return f"{place.name} was down"
        try:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        except ProcessLookupError:
            return f"{place.name} was ending"
        if not await_(lambda: len(place.exits) > before, _STARVED_S):
            # it may own nothing just now, and then it has nothing to write
            place.kill()
            return f"{place.name} had no disk and did not notice"
        code = place.exits[before].code
        if code == 0:
            raise Broken(f"{place.name} ended with 0 though it could not write its state")
        return f"{place.name} had no disk, ended with {code}"


def deleted(world: World, rng: random.Random) -> str:
    """The folder is gone when the worker comes back."""
    with world.workers.one(rng) as place:
        place.kill(rest=True)
        forget(place.folder)
        place.start()
        return f"the folder of {place.name} deleted"


def corrupted(world: World, rng: random.Random) -> str:
    """Bytes of one file are not what they were."""
    with world.workers.one(rng) as place:
        # it may be starting with an empty folder, beside other faults
        if not await_(lambda: bool(_files(place)), START_S):
            raise Broken(f"{place.name} kept no state within {START_S:.0f} s")
        place.kill(rest=True)
        damaged = _damage(place, rng)
        place.start()
        return f"{place.name}: {damaged}"


def changelog_compacted(world: World, rng: random.Random) -> str:
    """The cleaner removes what is superseded, old transactions' markers too; a folder is rebuilt from the rest."""
    topic = world.settings.changelog
    world.admin.configure(
        topic,
        segment_ms="500",
        min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="1000",
        segment_bytes="1048576",
    )
    data = [node.data for node in world.broker.nodes]
    before = compacted(data, topic)

    def advanced() -> bool:
        return any(offset > before.get(partition, 0) for partition, offset in compacted(data, topic).items())

    if not await_(advanced, _CLEANED_S):
        raise Broken(f"the log cleaner did not get to {topic} within {_CLEANED_S:.0f} s")
    with world.workers.one(rng) as place:
        place.kill(rest=True)
        forget(place.folder)
        place.start()
    world.admin.configure(
        topic,
        segment_ms=str(7 * _DAY_MS),
        min_cleanable_dirty_ratio="0.1",
        max_compaction_lag_ms=str(_DAY_MS),
        segment_bytes=str(64 << 20),
    )
    return f"cleaned, then the folder of {place.name} deleted"


def _damage(place: Place, rng: random.Random) -> str:
    files = _files(place)
    chosen = rng.choice(sorted({_kind(path) for path in files}))
    path = rng.choice([path for path in files if _kind(path) == chosen])
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 20)):
        content[rng.randrange(len(content))] ^= rng.randint(1, 255)
    path.write_bytes(content)
    return f"{os.path.relpath(path, place.folder)} damaged"


def _files(place: Place) -> list[Path]:
    return [path for path in sorted(place.folder.rglob("*")) if path.is_file() and _vital(path)]


def _vital(path: Path) -> bool:
    """Whether RocksDB reads it, and there is something in it."""
    return _kind(path) in {".sst", ".log", "MANIFEST", "CURRENT"} and path.stat().st_size > 0


def _kind(path: Path) -> str:
    return path.suffix or path.name.partition("-")[0]
