"""How fast state comes back: a lost folder rebuilt, an intact one reopened, a standby taking over.

Rebuilding is compared with Faust as it comes, on the same broker, in turn; its rate is that of a smaller changelog,
since a whole one would take minutes.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import typer
from confluent_kafka.admin import NewTopic
from rich.table import Table

from loadtest import fleet, population, taken, workload
from loadtest.conclude import conclude
from loadtest.fleet import Member
from loadtest.options import Json, Sample, out
from worker.errors import CheckFailed, IntentError
from worker.kafka import clients
from worker.kafka.broker import EmbeddedBroker
from worker.settings import Kafka, Settings
from worker.terminal import err
from worker.watermark import KEY, Watermark

TARGET: Final = 15.0
"""Times stock Faust's rate."""
_TIMEOUT_S: Final = 180.0
_SESSION_S: Final = 6.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """One rebuild: changelog records read, seconds from the first fetch to the end, and the process's memory then."""

    records: int
    seconds: float
    memory_mb: float | None = None

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


@dataclass(frozen=True, slots=True)
class Reopened:
    """An intact folder: records replayed, seconds from the assignment to work."""

    records: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A standby after its partner was killed: changelog records it still had to read, seconds until the group had told
    it so (the session's time-out), and from there to work on all partitions.
    """

    records: int
    noticed_s: float
    seconds: float


def recovery(
    *,
    records: Annotated[int, typer.Option(min=1000, help="Users in the changelog, a record each.")] = 1_000_000,
    stock_records: Annotated[int, typer.Option(min=1000, help="The same for Faust as it comes.")] = 50_000,
    runs: Annotated[int, typer.Option(min=1, help="Rebuilds of each, in turn.")] = 3,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of each topic.")] = 4,
    sample: Sample = None,
    folder: Annotated[Path, out("recovery.json")] = Path("runs/recovery"),
    as_json: Json = False,
) -> None:
    """Measure recovery: a changelog rebuilt into an empty folder, against stock Faust; a reopen; a standby's take-over.

    Windows are those of real visitors. Exit code 3 when records are missing after a rebuild, or an intact folder is
    replayed.
    """
    load_before = taken.load_before(err)
    with err.status("making windows") as status, tempfile.TemporaryDirectory(prefix="intent-recovery-") as temporary:
        place = Path(temporary)
        users = population.made(sample or workload.sample_folder())
        status.update("starting Kafka")
        with EmbeddedBroker(place / "kafka", heap_mb=1024) as broker:
            servers = broker.bootstrap_servers
            status.update(f"filling a changelog with {records:,} records")
            standing_by = {"standby_replicas": 1, "session_timeout_s": _SESSION_S}
            settings = fleet.deployment(place, servers=servers, partitions=partitions, worker=standing_by)
            fill(settings.kafka, settings.changelog, users.users(records, seed=1), partitions=partitions)
            changelog_bytes = _size(place / "kafka", settings.changelog)
            stock = _stock_topics(settings, users.users(stock_records, seed=2), partitions=partitions)
            members = [Member(settings, place, name=f"rebuilt-{run}") for run in range(runs)]
            ours: list[Rebuilt] = []
            theirs: list[Rebuilt] = []
            for run, member in enumerate(members):
                status.update(f"rebuild {run + 1} of {runs}: this worker")
                ours.append(_rebuild(member))
                status.update(f"rebuild {run + 1} of {runs}: Faust as it comes")
                theirs.append(_stock_rebuild(settings, stock, place / f"stock-{run}", partitions=partitions))
            status.update("reopening an intact folder")
            reopened = [_reopen(member) for member in members]
            status.update("a standby fills, and its partner is killed")
            took_over = _take_over(members[0], Member(settings, place, name="standby"), partitions=partitions)
    document = {
        "taken": taken.provenance(load_before=load_before),
        "windows": {"source": users.source, "mean_bytes": round(users.mean_bytes, 1)},
        "changelog_bytes_per_user": round(changelog_bytes / records, 1),
        "partitions": partitions,
        "rebuilds": [asdict(each) for each in ours],
        "stock_rebuilds": [asdict(each) for each in theirs],
        "times_stock": round(median(each.rate for each in ours) / median(each.rate for each in theirs), 2),
        "target": TARGET,
        "reopened": [asdict(each) for each in reopened],
        "taken_over": asdict(took_over),
    }
    memory_mb = median(each.memory_mb or 0 for each in ours)
    spent = (
        f"the changelog has {changelog_bytes / records:,.0f} bytes a user on the broker; a worker that has rebuilt it "
        f"takes {memory_mb:,.0f} MB of memory"
    )
    conclude(
        document,
        folder,
        "recovery",
        lambda: [_table(ours, theirs, reopened, took_over, mean_bytes=users.mean_bytes), spent],
        as_json=as_json,
    )
    rebuilt = [(each, records) for each in ours] + [(each, stock_records) for each in theirs]
    if any(each.records != wanted + partitions for each, wanted in rebuilt) or any(each.records for each in reopened):
        raise CheckFailed("a rebuild is incomplete, or an intact folder was replayed; the JSON tells which")


def fill(kafka: Kafka, topic: str, users: Iterable[tuple[bytes, bytes]], *, partitions: int) -> None:
    """A changelog as a worker leaves it: the users' windows in turn over the partitions, a watermark in each.

    Blocks until all is acknowledged. Raises `IntentError` when it is not.
    """
    windows = ((key, value, number % partitions) for number, (key, value) in enumerate(users))
    marks = ((KEY, Watermark(-1, 0).encode(), number) for number in range(partitions))
    workload.put(kafka, topic, chain(windows, marks), compression="lz4")  # as a worker's are


def _size(folder: Path, topic: str) -> int:
    """Bytes of a topic on the broker's disk."""
    return sum(file.stat().st_size for file in folder.rglob("*.log") if file.parent.name.startswith(f"{topic}-"))


def _rebuild(member: Member) -> Rebuilt:
    member.start()
    try:
        member.until(member.ready, "the worker is ready", within_s=_TIMEOUT_S)
        (line,) = member.said("recovered")
        return Rebuilt(int(line["records"]), float(line["seconds"]), round(member.process.memory_info().rss / 1e6, 1))
    finally:
        member.stop()


def _reopen(member: Member) -> Reopened:
    before = len(member.said("assigned"))
    member.start()
    try:
        member.until(lambda: len(member.said("assigned")) > before, "partitions are assigned", within_s=_TIMEOUT_S)
        began = time.monotonic()
        member.until(member.ready, "the worker is ready", within_s=_TIMEOUT_S)
        seconds = time.monotonic() - began
        name = "intent_recovered_records_total"
        return Reopened(int(member.metrics(name)[name]), round(seconds, 2))
    finally:
        member.stop()


def _take_over(first: Member, second: Member, *, partitions: int) -> TakenOver:
    with fleet.stopped_at_the_end(first, second):
        first.start()
        first.until(first.ready, "the first worker is ready", within_s=_TIMEOUT_S)
        second.start()
        second.until(
            lambda: {line["partition"] for line in second.said("standing by")} >= first.partitions() != set(),
            "the second worker stands by for the first",
            within_s=_TIMEOUT_S,
        )
        recoveries, assignments = len(second.said("recovered")), len(second.said("assigned"))
        first.kill()
        killed = time.monotonic()
        second.until(lambda: len(second.said("assigned")) > assignments, "the group notices", within_s=_TIMEOUT_S)
        noticed = time.monotonic()
        second.until(lambda: len(second.partitions()) == partitions, "it works on all partitions", within_s=_TIMEOUT_S)
        return TakenOver(
            records=sum(line["records"] for line in second.said("recovered")[recoveries:]),
            noticed_s=round(noticed - killed, 2),
            seconds=round(time.monotonic() - noticed, 2),
        )


def _stock_topics(settings: Settings, users: Iterable[tuple[bytes, bytes]], *, partitions: int) -> str:
    """A changelog and an empty source for Faust as it comes; the application's name."""
    name = f"{settings.worker.application_id}-stock"
    changelog = f"{name}-windows-changelog"
    admin = clients.admin(settings.kafka)
    wanted = [NewTopic(changelog, partitions, 1), NewTopic(f"{name}-events", partitions, 1)]
    for made in admin.create_topics(wanted, operation_timeout=30).values():
        made.result(30)
    fill(settings.kafka, changelog, users, partitions=partitions)
    return name


def _stock_rebuild(settings: Settings, name: str, folder: Path, *, partitions: int) -> Rebuilt:
    module = [sys.executable, "-m", "loadtest.contenders.stock_recovery"]
    arguments = [settings.kafka.bootstrap_servers, name, str(partitions), str(folder)]
    try:
        done = subprocess.run(
            [*module, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = str(error.stderr or "")[-2000:]
        raise IntentError(f"Faust as it comes did not recover: {error}\n{last}") from None
    count, seconds = done.split()[-2:]
    return Rebuilt(int(count), round(float(seconds), 3))


def _table(
    ours: list[Rebuilt], theirs: list[Rebuilt], reopened: list[Reopened], took_over: TakenOver, *, mean_bytes: float
) -> Table:
    shown = Table(title="Recovery", title_justify="left", caption_justify="left")
    ratio = median(each.rate for each in ours) / median(each.rate for each in theirs)
    verdict = "met" if ratio >= TARGET else "not met"
    shown.caption = (
        f"medians of {len(ours)} runs in turn; windows of {mean_bytes:,.0f} bytes in the mean\n"
        f"{ratio:.1f} x the rate of Faust as it comes; target {TARGET:g}: {verdict}"
    )
    for column in ("", "records", "seconds", "records/s", "range"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for title, runs in (("rebuilt here", ours), ("rebuilt by stock Faust", theirs)):
        rates = [run.rate for run in runs]
        seconds = f"{median(run.seconds for run in runs):,.2f}"
        spread = f"{min(rates):,.0f} – {max(rates):,.0f}"
        shown.add_row(title, f"{runs[0].records:,}", seconds, f"{median(rates):,.0f}", spread)
    shown.add_row(
        "intact folder reopened", f"{reopened[0].records:,}", f"{median(run.seconds for run in reopened):,.2f}"
    )
    shown.add_row("standby: group notices", "", f"{took_over.noticed_s:,.2f}")
    shown.add_row("standby: then at work", f"{took_over.records:,}", f"{took_over.seconds:,.2f}")
    return shown
