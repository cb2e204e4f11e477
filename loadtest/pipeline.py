"""The same job by this worker, by other stream libraries and by a bare loop, in turn on one broker.

Owns which run comes when, and that each run's outputs are complete. What a contender does is its own affair.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from loadtest import environment, outputs, standings, taken, workload
from loadtest.conclude import conclude
from loadtest.contenders.task import Job, Taken, Task
from loadtest.options import Json, Sample, out
from loadtest.standings import Place
from loadtest.workload import Workload
from worker import config
from worker.errors import CheckFailed, IntentError
from worker.kafka import clients
from worker.kafka.broker import EmbeddedBroker
from worker.settings import Kafka
from worker.terminal import err


class Contender(StrEnum):
    """Who may take part; `standings.NAMES` has the full names."""

    INTENT = "intent"
    BARE = "bare"
    QUIX_EXACTLY_ONCE = "quix-exactly-once"
    QUIX_AT_LEAST_ONCE = "quix-at-least-once"
    STOCK_FAUST = "stock-faust"


PARTITIONS: Final = 4
_RUN_TIMEOUT_S: Final = 180
_ANSWER_S: Final = 10.0
_HEAP_MB: Final = 1024
_MARK: Final = f"loadtest-{os.getpid()}"
_QUICK: Final = 5
"""`--quick` divides the events by so much."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender's program, and how many events keep it busy for about 10 s on two cores."""

    module: str
    events: Mapping[Job, int]
    option: str = ""
    exactly_once: bool = False


ENTRIES: Final[Mapping[Contender, Entry]] = {
    Contender.INTENT: Entry("intent", {"light": 700_000, "full": 300_000}, exactly_once=True),
    Contender.BARE: Entry("bare", {"light": 1_400_000, "full": 400_000}),
    Contender.QUIX_EXACTLY_ONCE: Entry("quix", {"light": 250_000, "full": 120_000}, "exactly-once", exactly_once=True),
    Contender.QUIX_AT_LEAST_ONCE: Entry("quix", {"light": 250_000, "full": 120_000}, "at-least-once"),
    Contender.STOCK_FAUST: Entry("stock_faust", {"light": 20_000, "full": 15_000}),
}


def pipeline(
    *,
    job: Annotated[Literal["light", "full", "both"], typer.Option(help="Which job.")] = "both",
    contender: Annotated[
        list[Contender] | None, typer.Option(help="Who takes part; repeat for several. Default: all.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of each contender and job, in turn.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Two runs each, of a fifth of the events.")] = False,
    scale: Annotated[float, typer.Option(min=0.001, help="Times as many events in each run.")] = 1.0,
    sample: Sample = None,
    bootstrap_servers: Annotated[str | None, typer.Option(help="Your own Kafka; default: one is started here.")] = None,
    folder: Annotated[Path, out("pipeline.json and pipeline.png")] = Path("runs/pipeline"),
    as_json: Json = False,
) -> None:
    """Compare throughput: the same job by this worker, Faust, Quix Streams and a bare confluent-kafka loop.

    Each reads JSON events from a topic that is full beforehand, keeps the user's window, and writes a score an event:
    with the state in RocksDB and a changelog, but for the bare loop, which keeps it in a dictionary and shows what
    Python can do at most. *light* hides little of the stream; *full* is the product's own work. Contenders take turns
    on one broker; after each run the scores are counted. Exit code 3 when one is missing, or comes twice where exactly
    once is promised.
    """
    jobs: tuple[Job, ...] = ("light", "full") if job == "both" else (job,)
    chosen = list(dict.fromkeys(contender or ENTRIES))
    runs, scale = (2, scale / _QUICK) if quick else (runs, scale)
    load_before = taken.load_before(err)
    programs = _programs(chosen)
    counts = {
        each: {name: max(PARTITIONS, round(ENTRIES[name].events[each] * scale)) for name in programs} for each in jobs
    }
    source = sample or workload.sample_folder()
    if "full" in jobs and source is not None:
        workload.opened(source, max(counts["full"].values()))  # *light* may take minutes before it is read
    measured: dict[Job, dict[Contender, list[Taken]]] = {each: {name: [] for name in programs} for each in jobs}
    sources: dict[Job, str] = {}

    def tell() -> None:
        """What there is, also of a run that ends early."""
        results = {
            each: [Place(name.value, tuple(took)) for name, took in found.items() if took]
            for each, found in measured.items()
            if any(found.values())
        }
        if not results:
            return
        document = {
            "taken": taken.provenance(load_before=load_before),
            "partitions": PARTITIONS,
            "jobs": standings.document(results, sources=sources),
        }
        conclude(
            document,
            folder,
            "pipeline",
            lambda: [standings.table(each, places, source=sources[each]) for each, places in results.items()],
            as_json=as_json,
            plot=partial(standings.plot, results),
        )

    with ExitStack() as end:
        end.callback(tell)
        status = end.enter_context(err.status("starting Kafka"))
        kafka = end.enter_context(_brokers(bootstrap_servers))
        for each in jobs:
            status.update(f"{each}: making events")
            load = workload.make(each, max(counts[each].values()), sample=source)
            sources[each] = load.source
            with _events(kafka, load, each, sorted(set(counts[each].values()))):
                for number in range(runs):
                    for name in programs:
                        status.update(f"{each}: run {number + 1} of {runs}, {standings.NAMES[name]}")
                        count = counts[each][name]
                        took = _run(name, programs[name], kafka, load, job=each, count=count, number=number)
                        measured[each][name].append(took)
                        rate, spent = took.events / took.seconds, took.cpu_s / took.events * 1e6
                        err.print(
                            f"{each}, run {number + 1} of {runs}: {standings.NAMES[name]}, {rate:,.0f} events/s, "
                            f"{spent:.1f} µs of CPU an event",
                            highlight=False,
                            soft_wrap=True,
                        )


def profiled(load: Workload, *, count: int, samples: Path) -> Taken:
    """The worker alone on the *full* job; CPU seconds by stage go into `samples` as JSON. About a minute."""
    with _brokers(None) as kafka:
        _make_topics(kafka, _events_topic("full", count))
        workload.publish(kafka, _events_topic("full", count), load.records[:count])
        took = None
        for number in range(2):  # a broker that has just been started compiles its Java in the first
            took = _run(
                Contender.INTENT,
                Path(sys.executable),
                kafka,
                load,
                job="full",
                count=count,
                number=number,
                option=str(samples),
            )
        assert took is not None
        return took


@contextmanager
def _brokers(servers: str | None) -> Iterator[Kafka]:
    """The user's own, or one that is started here and gone afterwards.

    Raises `SettingError` for an address that is none, `IntentError` for brokers that do not answer.
    """
    if servers is not None:
        given = config.load({"kafka": {"bootstrap_servers": servers}}).kafka
        theirs = Kafka(bootstrap_servers=given.bootstrap_servers)  # contenders are told nothing else of it
        _asked(theirs)
        yield theirs
        return
    with (
        tempfile.TemporaryDirectory(prefix="intent-pipeline-") as temporary,
        EmbeddedBroker(Path(temporary) / "kafka", heap_mb=_HEAP_MB) as broker,
    ):
        yield Kafka(bootstrap_servers=broker.bootstrap_servers)


def _asked(kafka: Kafka) -> None:
    """Raises `IntentError` where nobody answers."""
    trouble = clients.Trouble()
    admin = clients.admin(kafka, trouble)
    try:
        admin.list_topics(timeout=_ANSWER_S)
    except KafkaException as error:
        raise trouble.unanswered(admin, kafka, error.args[0].str()) from None


def _programs(chosen: Sequence[Contender]) -> dict[Contender, Path]:
    """Each contender's Python. Quix is left out, and said to be, where it cannot be installed."""
    programs: dict[Contender, Path] = {}
    for name in chosen:
        if ENTRIES[name].module != "quix":
            programs[name] = Path(sys.executable)
            continue
        try:
            programs[name] = environment.quix(lambda text: err.print(text, highlight=False))
        except IntentError as error:
            err.print(f"{error}; {standings.NAMES[name]} is left out", style="yellow", highlight=False)
    if not programs:
        raise IntentError("no contender is left; see above")
    return programs


def _run(
    name: Contender, program: Path, kafka: Kafka, load: Workload, *, job: Job, count: int, number: int, option: str = ""
) -> Taken:
    """One run of one contender, its outputs counted. Raises `CheckFailed` when they are not what they must be."""
    entry, group = ENTRIES[name], f"{_MARK}-{job}-{name}-{number}"
    with tempfile.TemporaryDirectory(prefix="intent-contender-") as state:
        task = Task(
            job=job,
            servers=kafka.bootstrap_servers,
            events=_events_topic(job, count),
            scores=f"{group}.scores",
            latest=f"{group}.latest",
            dead_letters=f"{group}.dlq",
            partitions=PARTITIONS,
            count=count,
            group=group,
            folder=state,
            option=option or entry.option,
        )
        with _outputs(kafka, task):
            took = _start(name, program, task)
            found = outputs.count(kafka, scores=task.scores, dead_letters=task.dead_letters, partitions=PARTITIONS)
    dead = load.dead(count)
    if found.distinct != count - dead or found.dead != dead:
        raise CheckFailed(
            f"{standings.NAMES[name]}: of {count - dead:,} scores and {dead:,} dead letters "
            f"{found.distinct:,} and {found.dead:,} are there"
        )
    if entry.exactly_once and found.repeated:
        raise CheckFailed(f"{standings.NAMES[name]}: {found.repeated:,} scores come more than once")
    return took


def _start(name: Contender, program: Path, task: Task) -> Taken:
    command = [str(program), "-W", "ignore", "-m", f"loadtest.contenders.{ENTRIES[name].module}", task.dump()]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise IntentError(f"{standings.NAMES[name]} did not end within {_RUN_TIMEOUT_S} s") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers:
        said = (done.stdout + done.stderr)[-2000:]
        raise IntentError(f"{standings.NAMES[name]} ended with {done.returncode}:\n{said}")
    return Taken(**orjson.loads(answers[-1]))


def _events_topic(job: Job, count: int) -> str:
    return f"{_MARK}-{job}-events-{count}"


@contextmanager
def _events(kafka: Kafka, load: Workload, job: Job, counts: Sequence[int]) -> Iterator[None]:
    """A full topic for each count; gone afterwards, also from brokers of the user's own after a run that failed."""
    made: list[str] = []
    try:
        for count in counts:
            _make_topics(kafka, _events_topic(job, count))
            made.append(_events_topic(job, count))
            workload.publish(kafka, made[-1], load.records[:count])
        yield
    finally:
        if made:
            _drop_topics(kafka, made)


@contextmanager
def _outputs(kafka: Kafka, task: Task) -> Iterator[None]:
    """The run's own topics, gone afterwards with those that its contender made."""
    own = {task.scores, task.latest, task.dead_letters}
    _make_topics(kafka, *own)
    try:
        yield
    finally:
        listed = clients.admin(kafka).list_topics(timeout=10).topics  # what was made just now may be missing from it
        _drop_topics(kafka, [*own.union(topic for topic in listed if task.group in topic)])


def _make_topics(kafka: Kafka, *names: str) -> None:
    admin: AdminClient = clients.admin(kafka)
    topics = [NewTopic(name, PARTITIONS, 1) for name in names]
    for name, made in admin.create_topics(topics, operation_timeout=10).items():
        try:
            made.result(10)
        except KafkaException as error:  # of the user's own brokers, above all
            raise IntentError(f"the topic {name} cannot be created: {error.args[0].str()}") from None


def _drop_topics(kafka: Kafka, names: Sequence[str]) -> None:
    admin: AdminClient = clients.admin(kafka)
    for dropped in admin.delete_topics(list(names), operation_timeout=10).values():
        dropped.result(10)
