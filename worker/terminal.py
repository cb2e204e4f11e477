"""Where commands write: results to `out`, progress and what goes wrong to `err`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer
from rich.console import Console
from rich.table import Column, Table

from worker.errors import IntentError

_PAGE: Final = 160
"""Columns of a file or a pipe, which has no width of its own: tables stay whole."""

out: Final = Console(width=None if sys.stdout.isatty() else _PAGE)
err: Final = Console(stderr=True)


def table(title: str | None = None) -> Table:
    """An empty one. It has no lines between its columns, so that numbers with intervals are whole in 80 columns."""
    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))


def folded(*headers: str, title: str | None = None) -> Table:
    """An empty one whose cells go on in the next line, where a terminal is narrow: a path or a topic cut at `…` says
    nothing.
    """
    return Table(*(Column(header, overflow="fold") for header in headers), title=title, title_justify="left")


def printable(text: str) -> str:
    """Text with its control characters as escapes: nothing in it can steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def line(text: str, *, to: Console = out) -> None:
    """One line as it is: a file's name may look like markup, and the terminal alone cuts a line."""
    to.print(text, highlight=False, markup=False, soft_wrap=True)


def say_json(content: object) -> None:
    """JSON to standard output, for programs. No console writes it: `FORCE_COLOR`, or a terminal, would mark it up."""
    typer.echo(json.dumps(content, indent=2))


def say(program: str, error: str) -> None:
    """One line on stderr, whatever its width and its marks: it may quote a file, or a library of several lines."""
    shown = f"{program}: {printable(error)}"
    Console(stderr=True, soft_wrap=True).print(shown, style="red", highlight=False, markup=False)


@contextmanager
def told(program: str) -> Iterator[None]:
    """Errors of our own, and of the files that it writes, end the program: one line on stderr, and an exit code."""
    try:
        yield
    except IntentError as error:
        say(program, str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, above all; of a closed pipe typer takes care
        where = "" if error.filename is None else f"{error.filename}: "
        say(program, f"{where}{error.strerror or error}")
        sys.exit(IntentError.exit_code)
