"""How large state is, and what each RocksDB option costs or saves: users' windows in databases opened as the worker's.

No Kafka: windows go in as recovery writes them, and are read and replaced as the fold does. Each choice of options runs
in a process of its own, so that its memory is its own.
"""

import gc
import multiprocessing
import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Final

import psutil
import rocksdict
import typer
from rich.table import Table

from loadtest import apart, population, taken, workload
from loadtest.conclude import conclude
from loadtest.options import Json, Sample, chosen, out
from loadtest.population import Population
from worker.errors import IntentError
from worker.stream.rocksdb import CHOSEN, Choice, options
from worker.terminal import err

_PARTITIONS: Final = 4
_FILL: Final = 10_000
"""Records of one write when the store is filled: about a fetch."""
_BATCH: Final = 200
"""Events of one write when the store is used: about a transaction under load."""
_TIMEOUT_S: Final = 300.0

CASES: Final[Mapping[str, Choice]] = {
    "chosen": CHOSEN,
    "no compression": Choice(compression="none"),
    "zstd": Choice(compression="zstd"),
    "no filter": Choice(bloom_bits=0),
    "index outside": Choice(index_in_cache=False),
    "cache 64M": Choice(cache_bytes=64 << 20, memtables_bytes=32 << 20),
    "cache 1G": Choice(cache_bytes=1 << 30),
    "memtables 16M": Choice(memtable_bytes=4 << 20, memtables_bytes=16 << 20),
    "universal": Choice(compaction="universal"),
    "64 open files": Choice(open_files=64),
    "no log": CHOSEN,
}
_WITHOUT_LOG: Final = "no log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One choice's outcome; microseconds are CPU of the calling thread, of one user each."""

    disk_bytes: float
    """Of a user, after everything."""
    memory_mb: float
    """The process's growth, at its end."""
    fill_us: float
    event_us: float
    """A window read and replaced, in batches."""
    miss_us: float
    """A look-up of a user who is not there."""
    background_s: float
    """CPU of RocksDB's own threads, for all of it: flushes and compactions."""
    reopen_ms: float


def state(
    *,
    users: Annotated[int, typer.Option(min=1000, help="With a window each.")] = 1_000_000,
    events: Annotated[int, typer.Option(min=1000, help="Of users drawn at random, once all are there.")] = 200_000,
    case: Annotated[
        list[str] | None, typer.Option(help="Only these choices; repeat for several. Default: all.")
    ] = None,
    sample: Sample = None,
    folder: Annotated[Path, out("state.json")] = Path("runs/state"),
    as_json: Json = False,
) -> None:
    """Measure state: bytes a user on disk, memory, and microseconds, for the options chosen and for others.

    Window lengths and contents are those of real visitors, drawn at random. Each case differs from the chosen options
    in what its name says.
    """
    names = chosen("--case", case, CASES)
    load_before = taken.load_before(err)
    results: dict[str, Size] = {}
    with err.status("making windows") as status, tempfile.TemporaryDirectory(prefix="intent-state-") as temporary:
        people = population.made(sample or workload.sample_folder())
        (Path(temporary) / "population").write_bytes(pickle.dumps(people))
        for name in names:
            status.update(name)
            results[name] = _apart(name, Path(temporary), users=users, events=events)
    document = {
        "taken": taken.provenance(load_before=load_before),
        "windows": {
            "source": people.source,
            "mean_bytes": round(people.mean_bytes, 1),
            "median_bytes": statistics.median(map(len, people.windows)),
            "mean_events": round(people.mean_events, 2),
        },
        "users": users,
        "events": events,
        "partitions": _PARTITIONS,
        "cases": {name: asdict(CASES[name]) | asdict(size) for name, size in results.items()},
    }
    conclude(document, folder, "state", lambda: [_table(results, people, users=users)], as_json=as_json)


def _apart(name: str, folder: Path, *, users: int, events: int) -> Size:
    mine, theirs = multiprocessing.Pipe()
    process = apart.started(_measured, name, folder, users, events, theirs)
    theirs.close()
    try:
        if not mine.poll(_TIMEOUT_S):
            raise IntentError(f"the case {name!r} took longer than {_TIMEOUT_S:g} s; give fewer --users")
        size: Size = mine.recv()
    except EOFError:
        raise IntentError(f"the case {name!r} failed; its error is above") from None
    finally:
        process.kill()
        process.join()
    return size


def _measured(name: str, folder: Path, users: int, events: int, pipe: Connection) -> None:
    people: Population = pickle.loads((folder / "population").read_bytes())  # noqa: S301 - written by ourselves
    gc.freeze()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        pipe.send(measure(name, people, Path(temporary), users=users, events=events))


def measure(name: str, people: Population, folder: Path, *, users: int, events: int) -> Size:
    """Fill, use and reopen databases with the options of the case, in this process."""
    before, cpu_before = psutil.Process().memory_info().rss, time.process_time() - time.thread_time()
    databases = [_opened(name, folder, partition) for partition in range(_PARTITIONS)]
    keys: list[bytes] = []
    fill_s = 0.0
    source = people.users(users, seed=1)
    for block, chunk in enumerate(_chunks(source, _FILL)):
        keys += [key for key, _ in chunk]
        begin = time.thread_time()
        _write(databases[block % _PARTITIONS], chunk)
        fill_s += time.thread_time() - begin
    keys_bytes = users * 80  # the list above is not the store's
    rng = random.Random(2)
    event_s = 0.0
    for _ in range(events // _BATCH):
        first = rng.randrange(0, users, _FILL)
        database = databases[first // _FILL % _PARTITIONS]
        chosen = [keys[rng.randrange(first, min(first + _FILL, users))] for _ in range(_BATCH)]
        begin = time.thread_time()
        _write(database, [(key, _held(database, key)) for key in chosen])
        event_s += time.thread_time() - begin
    absent = [b"%019d" % (rng.randrange(10**12) * 10**7 + users + number) for number in range(events // 10)]
    begin = time.thread_time()
    for number, key in enumerate(absent):
        databases[number % _PARTITIONS].get(key)
    miss_s = time.thread_time() - begin
    memory = psutil.Process().memory_info().rss - before - keys_bytes
    for database in databases:
        database.close()
    background_s = time.process_time() - time.thread_time() - cpu_before
    begin = time.perf_counter()
    for database in [_opened(name, folder, partition) for partition in range(_PARTITIONS)]:
        database.close()
    reopen_s = time.perf_counter() - begin
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Size(
        disk_bytes=round(disk / users, 1),
        memory_mb=round(memory / 1e6, 1),
        fill_us=round(fill_s / users * 1e6, 2),
        event_us=round(event_s / (events // _BATCH * _BATCH) * 1e6, 2),
        miss_us=round(miss_s / len(absent) * 1e6, 2),
        background_s=round(background_s, 2),
        reopen_ms=round(reopen_s * 1000, 1),
    )


def _opened(name: str, folder: Path, partition: int) -> rocksdict.Rdict:
    database = rocksdict.Rdict(str(folder / f"windows-{partition}.db"), options=options(CASES[name]))
    if name == _WITHOUT_LOG:
        how = rocksdict.WriteOptions()
        how.disable_wal = True  # type: ignore[assignment,method-assign]  # a property, which its stub does not know
        database.set_write_options(how)
    return database


def _held(database: rocksdict.Rdict, key: bytes) -> bytes:
    value = database.get(key)
    assert isinstance(value, bytes), "a user that was put in is not there"
    return value


def _write(database: rocksdict.Rdict, items: list[tuple[bytes, bytes]]) -> None:
    batch = rocksdict.WriteBatch(raw_mode=True)
    for key, value in items:
        batch.put(key, value)
    database.write(batch)


def _chunks(users: Iterator[tuple[bytes, bytes]], size: int) -> Iterator[list[tuple[bytes, bytes]]]:
    while chunk := list(islice(users, size)):
        yield chunk


def _table(results: Mapping[str, Size], people: Population, *, users: int) -> Table:
    shown = Table(title=f"State of {users:,} users", title_justify="left", caption_justify="left")
    shown.caption = (
        f"windows of {people.source}: {people.mean_bytes:,.0f} bytes, {people.mean_events:.1f} events in the mean\n"
        "B/user: on disk; fill, event, miss: µs of CPU to put a user in, to read and replace one, to find one missing\n"
        "MB: the process's growth; own s: CPU of RocksDB's threads, for all of it; open ms: all partitions again"
    )
    columns = ("", "B/user", "MB", "fill", "event", "miss", "own s", "open ms")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for name, size in results.items():
        shown.add_row(
            name,
            f"{size.disk_bytes:,.0f}",
            f"{size.memory_mb:,.0f}",
            f"{size.fill_us:.2f}",
            f"{size.event_us:.2f}",
            f"{size.miss_us:.2f}",
            f"{size.background_s:.1f}",
            f"{size.reopen_ms:,.0f}",
            style="bold" if CASES[name] == CHOSEN and name != _WITHOUT_LOG else "",
        )
    return shown
