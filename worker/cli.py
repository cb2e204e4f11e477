"""The program `intent`: which command does what. Bodies live with what they command and are imported when called."""

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from worker import __version__
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


@app.command()
def worker(
    constant: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run the stream worker until SIGTERM or Ctrl-C."""
    from worker.run import serve

    serve(constant=constant)


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
