"""The program `intent`: which command does what. Bodies live with what they command and are imported when called."""

import sys

import typer
from rich.console import Console

from worker.errors import CheckFailed, IntentError, SettingError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CHECK = 3

app = typer.Typer(
    name="intent",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _mount() -> None:
    """Every command. The modules named here import only what their options need."""
    from worker.demo.commands import demo
    from worker.dlq.commands import dlq_app
    from worker.doctor import check
    from worker.kafka.commands import broker_app, topics_app
    from worker.replay.commands import replay
    from worker.shop.commands import import_app, simulate

    app.command()(demo)
    app.add_typer(broker_app, name="broker")
    app.add_typer(topics_app, name="topics")
    app.command()(simulate)
    app.add_typer(import_app, name="import")
    app.command()(replay)
    app.add_typer(dlq_app, name="dlq")
    app.command()(check)


@app.command()
def worker() -> None:
    """Run the stream worker until SIGTERM or Ctrl-C.

    Settings come from `intent.toml`, then the environment (`INTENT_KAFKA__BOOTSTRAP_SERVERS`, nested by `__`); see
    `intent config show`. Health is at `/livez` and `/readyz`, metrics at `/metrics` of `worker.web_port`.
    """
    from worker import config, run

    run.serve(config.load())


_mount()


def main() -> None:
    """Entry of the console script: errors of our own are one line on stderr and an exit code."""
    try:
        app()
    except IntentError as error:
        Console(stderr=True, soft_wrap=True).print(f"intent: {error}", style="red", highlight=False, markup=False)
        code = EXIT_FAILED
        if isinstance(error, SettingError):
            code = EXIT_USAGE
        elif isinstance(error, CheckFailed):
            code = EXIT_CHECK
        sys.exit(code)


if __name__ == "__main__":
    main()
