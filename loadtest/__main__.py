"""`python -m loadtest`: which measurement is which command. Each lives in the module of its name."""

from typing import Final

import typer

from worker.__main__ import unwind_when_stopped
from worker.terminal import told

_HELP: Final = """Measures the worker: speed, latency, recovery and endurance on a real Kafka; its scoring; its models.

Each command starts what it needs on this machine and removes it again; results are a table, a plot and JSON, with
the command, the commit and the machine. Exit codes: 0 done, 1 failed, 2 bad usage or settings, 3 a check did not hold.
"""

app = typer.Typer(
    name="loadtest",
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _mount() -> None:
    """Every command. The modules named here import only what their options need: torch takes seconds."""
    from loadtest.adapting import peft
    from loadtest.batching import batching
    from loadtest.engine import engine
    from loadtest.gather import gather
    from loadtest.latency import latency
    from loadtest.models import models
    from loadtest.pipeline import pipeline
    from loadtest.reasons import reasons
    from loadtest.recovery import recovery
    from loadtest.risk import risk
    from loadtest.rolling import continual
    from loadtest.scale import scale
    from loadtest.soak import soak
    from loadtest.stages import stages
    from loadtest.state import state
    from loadtest.transfer import transfer

    stream = (pipeline, stages, latency, models, recovery, state, scale, soak)
    scoring = (gather, engine, batching, reasons)
    studies = (risk, transfer, peft, continual)
    for command in (*stream, *scoring, *studies):
        app.command()(command)


_mount()


def main() -> None:
    """The program; errors are one line on stderr and an exit code, and a signal ends it in order, as with `intent`."""
    unwind_when_stopped()
    with told("loadtest"):
        app()


if __name__ == "__main__":
    main()
