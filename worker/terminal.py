"""Where commands write: results to `out`, progress and what goes wrong to `err`."""

import sys
from typing import Final, NoReturn

from rich.console import Console
from rich.table import Table

from worker.errors import IntentError

_PAGE: Final = 160
"""Columns of a file or a pipe, which has no width of its own: tables stay whole."""

out: Final = Console(width=None if sys.stdout.isatty() else _PAGE)
err: Final = Console(stderr=True)


def table(title: str | None = None) -> Table:
    """An empty one. It has no lines between its columns, so that numbers with intervals are whole in 80 columns."""
    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))


def printable(text: str) -> str:
    """Text with its control characters as escapes: nothing in it can steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(program: str, error: str) -> None:
    """One line on stderr, whatever its width and its marks."""
    Console(stderr=True, soft_wrap=True).print(f"{program}: {error}", style="red", highlight=False, markup=False)


def leave(program: str, error: IntentError) -> NoReturn:
    """End the program by an error of our own: its line, and its exit code."""
    say(program, str(error))
    sys.exit(error.exit_code)
