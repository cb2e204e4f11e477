"""`intent check`: would a worker started here, with these settings, do its job? Looks at all of it, changes nothing.

Owns the order of the questions and what to do about each answer. Each question is asked of the module that knows; one
that fails does not keep the others from being asked.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from worker.errors import CheckFailed, IntentError
from worker.terminal import err, folded, out, say_json

if TYPE_CHECKING:
    from worker.settings import Settings

SCHEMAS: Final = ("clickstream.events.v1.json", "intent.scores.v1.json")
_TIMEOUT_S: Final = 5.0
_LOW_DISK_BYTES: Final = 1 << 30
_OWN: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - who listens on all is asked here


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is empty exactly where all is well."""

    what: str
    found: str
    advice: str = ""

    @property
    def well(self) -> bool:
        """Whether nothing has to be done."""
        return not self.advice


def check(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object on standard output.")] = False,
) -> None:
    """Look at everything a worker needs, and say what is wrong and what to do about it.

    Settings, brokers, topics, state folder, web port, schemas, model bundle and device are looked at; nothing is
    changed. A model of a store elsewhere is fetched for the check, into a folder beside the cache that goes again. Exit
    code 0 when all is well, 3 when something is not.
    """
    with err.status("checking"):
        findings = list(examine())
    wrong = sum(not finding.well for finding in findings)
    if as_json:
        listed = [
            {"what": finding.what, "ok": finding.well, "found": finding.found, "advice": finding.advice}
            for finding in findings
        ]
        say_json({"ok": not wrong, "findings": listed})
    else:
        table = folded("", "what", "found", "what to do")
        for finding in findings:
            mark = "[green]ok[/]" if finding.well else "[red]wrong[/]"
            table.add_row(mark, finding.what, escape(finding.found), escape(finding.advice))
        out.print(table)
    if wrong:
        raise CheckFailed(f"{wrong} of {len(findings)} things are not as they should be")


def examine() -> Iterator[Finding]:
    """All findings, in the order in which to mend them. Blocks for seconds: it asks brokers and loads torch."""
    from worker import config
    from worker.settings import leaves

    try:
        settings = config.load()
    except IntentError as error:
        yield Finding("settings", str(error), "correct it; `intent config show` lists what there is")
        return
    yield Finding("settings", f"{sum(1 for _ in leaves(settings))} values, all accepted")
    brokers = list(
        _asked("brokers", _brokers, settings, "correct it; `intent config show` tells where each value came from")
    )
    yield from brokers
    if all(finding.well for finding in brokers):
        yield from _asked("topics", _topics, settings, "correct `topics.*`, or look at the brokers' log")
    yield from _asked("state folder", _state_folder, settings, "set `worker.data_dir` to a folder that can be written")
    yield from _asked(
        "web port", _web_port, settings, "correct it; `intent config show` tells where each value came from"
    )
    yield from _asked("schemas", _schemas, settings, "restore the folder `schemas`")
    yield from _asked("bundle", _bundle, settings, "restore it, or set `model.bundle` or `model.store` to another")
    yield from _asked("device", _device, settings, "set `model.device` to auto or cpu")


def _asked(
    what: str, question: "Callable[[Settings], Iterator[Finding]]", settings: "Settings", advice: str
) -> Iterator[Finding]:
    """A question's findings; a failure to answer is one, too. One broad except: a doctor does not fall ill himself."""
    try:
        yield from question(settings)
    except IntentError as error:
        yield Finding(what, str(error), advice)
    except Exception as error:
        yield Finding(what, f"{type(error).__name__}: {error}", advice)


def _brokers(settings: "Settings") -> Iterator[Finding]:
    from confluent_kafka import KafkaException

    from worker.kafka import clients

    servers = settings.kafka.bootstrap_servers
    trouble = clients.Trouble()
    admin = clients.admin(settings.kafka, trouble)
    try:
        described = admin.list_topics(timeout=_TIMEOUT_S)
    except KafkaException:
        trouble.hear(admin)
        cause = f" ({trouble.cause})" if trouble.cause else ""
        yield Finding("brokers", f"{servers} does not answer within {_TIMEOUT_S:.0f} s{cause}", trouble.advice)
        return
    count = len(described.brokers)
    wanted = settings.topics.replication_factor
    advice = f"add brokers, or set `topics.replication_factor` to at most {count}" if count < wanted else ""
    yield Finding("brokers", f"{count} at {servers}, cluster {described.cluster_id}", advice)


def _topics(settings: "Settings") -> Iterator[Finding]:
    from worker.kafka import topics

    differences = topics.check(settings)
    if not differences:
        yield Finding("topics", f"{len(topics.declared(settings))}, all as declared")
    for difference in differences:
        yield Finding("topics", str(difference), difference.advice)


def _state_folder(settings: "Settings") -> Iterator[Finding]:
    """One that a worker has already is as it should be, as with the web port."""
    import os
    import shutil

    from worker import run

    folder = settings.worker.data_dir
    nearest = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        yield Finding("state folder", f"{folder} cannot be written", "set `worker.data_dir` to a folder that can")
        return
    free = shutil.disk_usage(nearest).free
    advice = "free some space, or set `worker.data_dir` to a larger disk" if free < _LOW_DISK_BYTES else ""
    whose = ", of a worker that runs" if run.folder_taken(settings) else ""
    yield Finding("state folder", f"{folder}{whose}, {free / 1e9:.1f} GB free", advice)


def _web_port(settings: "Settings") -> Iterator[Finding]:
    """One that a worker has already is as it should be: who looks after that one asks beside it."""
    from worker import run

    host, port = settings.worker.web_host, settings.worker.web_port
    try:
        run.check_port(settings)
    except IntentError:
        if not _a_worker_answers(host, port):
            raise
        yield Finding("web port", f"{port} on {host}, of a worker that runs")
        return
    yield Finding("web port", f"{port} on {host} is free" if port else f"a free one on {host}")


def _a_worker_answers(host: str, port: int) -> bool:
    import http.client

    connection = http.client.HTTPConnection(_OWN.get(host, host), port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        return "checks" in json.loads(connection.getresponse().read())
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _schemas(_settings: "Settings") -> Iterator[Finding]:
    package = Path(__file__).parent
    folder = next((place for place in (package / "schemas", package.parent / "schemas") if place.is_dir()), None)
    if folder is None:
        yield Finding("schemas", "the folder `schemas` is not there", "install the package whole, or clone again")
        return
    for name in SCHEMAS:
        if not (folder / name).is_file():
            yield Finding("schemas", f"{name} is missing in {folder}", "restore it")
            return
        json.loads((folder / name).read_text())
    yield Finding("schemas", f"{len(SCHEMAS)} in {folder}")


def _bundle(settings: "Settings") -> Iterator[Finding]:
    from worker.registry.source import configured
    from worker.scoring.bundle import SHIPPED
    from worker.scoring.engine import tried

    source, load = configured(settings.model)
    version = None if source is None else source.version(settings.model.alias)
    if source is None or version is None:
        loaded = load()
    else:  # what the store holds now; the cache belongs to the workers, and forgets for each version that comes
        with source.fresh() as there:
            loaded = there.load(version)
    tried(loaded)
    where = settings.model.store or settings.model.bundle or SHIPPED
    yield Finding("bundle", f"{loaded.name} {loaded.version} in {where}, checksums right, loads, scores")


def _device(settings: "Settings") -> Iterator[Finding]:
    import torch

    from worker.scoring.engine import cpu_threads

    cuda = torch.cuda.is_available()
    wanted = settings.model.device
    if wanted == "cuda" and not cuda:
        advice = "set `model.device` to auto or cpu, or make the driver and device visible (`nvidia-smi`)"
        yield Finding("device", "no CUDA device is visible", advice)
        return
    if cuda and wanted != "cpu":
        yield Finding("device", f"cuda: {torch.cuda.get_device_name()}")
        return
    threads = cpu_threads(settings.model.threads)
    yield Finding("device", f"cpu, {threads} thread{'s' if threads > 1 else ''} for the model")
