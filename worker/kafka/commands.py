"""`intent broker` and `intent topics`: what they take and how they say what came of it. The work is done next door."""

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from worker.errors import CheckFailed
from worker.options import Json
from worker.terminal import err, folded, out, say_json

if TYPE_CHECKING:
    from worker.kafka.daemon import Status

broker_app = typer.Typer(no_args_is_help=True, help="A real Apache Kafka on this machine, for development and tests.")
topics_app = typer.Typer(no_args_is_help=True, help="The topics that the worker reads and writes.")

_Folder = Annotated[Path, typer.Option("--folder", help="Where the broker keeps its data, logs and state.")]
_FOLDER = Path(".intent/broker")


@broker_app.command("start")
def broker_start(
    *,
    nodes: Annotated[int, typer.Option(min=1, max=5, help="3 for fail-over tests: replication 3, 2 in sync.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The first node's port; 0 chooses free ones.")] = 9092,
    folder: _Folder = _FOLDER,
    as_json: Json = False,
) -> None:
    """Start Kafka in the background and wait until it answers. Does nothing when it runs already.

    The first start fetches the jars of Apache Kafka (45 MB). Nothing listens beyond this machine.
    """
    from worker.kafka import daemon

    began = time.monotonic()
    with err.status("starting Kafka"):
        fresh = daemon.start(folder, nodes=nodes, port=port)
    seconds = time.monotonic() - began
    if as_json:
        _print_status(daemon.status(folder))
        return
    servers = daemon.status(folder).bootstrap_servers
    how = f"ready in {seconds:.1f} s" if fresh else "as before"
    out.print(f"Kafka runs on [bold]{servers}[/], {how}", highlight=False)
    if servers != "127.0.0.1:9092":
        out.print(f"  export INTENT_KAFKA__BOOTSTRAP_SERVERS={servers}", highlight=False, soft_wrap=True)
    out.print("next: [bold]intent topics create[/]; stop it with [bold]intent broker stop[/]" + escape(_option(folder)))


@broker_app.command("status")
def broker_status(*, folder: _Folder = _FOLDER, as_json: Json = False) -> None:
    """Say which nodes run, and where. Exit code 3 when not all of them do."""
    from worker.kafka import daemon

    status = daemon.status(folder)
    if as_json:
        _print_status(status)
    elif status.running:
        table = folded("node", "state", "pid", "log", title=f"Kafka on {status.bootstrap_servers}")
        for number, running in status.running.items():
            state = "[green]running[/]" if running else "[red]gone[/]"
            table.add_row(str(number), state, str(status.pids[number]), escape(os.path.relpath(status.logs[number])))
        out.print(table)
    if not status.complete:
        option = _option(folder)
        if any(status.running.values()):
            what, advice = "not every Kafka node runs", f"`intent broker stop{option}`, then start it again"
        else:
            what, advice = "no Kafka runs", f"`intent broker start{option}` starts it"
        raise CheckFailed(f"{what} below {folder}; {advice}")


@broker_app.command("stop")
def broker_stop(*, folder: _Folder = _FOLDER, as_json: Json = False) -> None:
    """Stop it in order, and by force when it takes more than ten seconds. The data stays in the folder."""
    from worker.kafka import daemon

    with err.status("stopping Kafka"):
        stopped = daemon.stop(folder)
    if as_json:
        say_json({"stopped": stopped})
    else:
        none = f"no Kafka runs below {escape(str(folder))}"
        out.print(f"stopped {stopped} node{'s' * (stopped > 1)}" if stopped else none)


@topics_app.command("create")
def topics_create(*, as_json: Json = False) -> None:
    """Create the topics that are missing, with their partitions and settings. Touches none that exists."""
    from worker.config import load
    from worker.kafka import topics

    settings = load()
    made = topics.create(settings)
    if as_json:
        say_json({"topics": [{"name": name, "created": new} for name, new in made.items()]})
        return
    table = folded("topic", "", "keeps")
    for topic in topics.declared(settings):
        keeps = "the newest record of each key"
        if "retention.ms" in topic.config:
            keeps = f"{int(topic.config['retention.ms']) // 3_600_000} hours"
        table.add_row(topic.name, "[green]created[/]" if made[topic.name] else "was there", keeps)
    out.print(table)
    if any(made.values()):
        shape = settings.topics
        out.print(
            f"with {shape.partitions} partitions each, {shape.replication_factor} replica"
            f"{'s' * (shape.replication_factor > 1)}, of which at least {shape.min_insync_replicas} in sync"
        )
    if not all(made.values()):
        out.print("whether those that were there are as they should be, [bold]intent topics check[/] says")


@topics_app.command("check")
def topics_check(*, as_json: Json = False) -> None:
    """Name each difference between the topics and what they should be. Exit code 3 when there is one."""
    from worker.config import load
    from worker.kafka import topics

    settings = load()
    differences = topics.check(settings)
    if as_json:
        fields = ("topic", "what", "found", "wanted")
        found = [{field: getattr(difference, field) for field in fields} for difference in differences]
        say_json({"differences": found})
    elif differences:
        table = folded("topic", "what", "found", "wanted")
        for difference in differences:
            table.add_row(difference.topic, difference.what, f"[red]{difference.found}[/]", difference.wanted)
        out.print(table)
    else:
        out.print(f"all {len(topics.declared(settings))} topics are as they should be")
    if differences:
        count = len(differences)
        advice = dict.fromkeys(difference.advice for difference in differences)
        raise CheckFailed(f"{count} difference{'s' * (count > 1)}; {'; '.join(advice)}")


def _print_status(status: "Status") -> None:
    nodes = [
        {"number": number, "running": running, "pid": status.pids[number], "log": status.logs[number]}
        for number, running in status.running.items()
    ]
    say_json({"running": status.complete, "bootstrap_servers": status.bootstrap_servers, "nodes": nodes})


def _option(folder: Path) -> str:
    """The option that a suggested command needs to mean the same broker."""
    return "" if folder == _FOLDER else f" --folder {shlex.quote(str(folder))}"
