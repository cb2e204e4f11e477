"""Options that several commands take in the same words, what they make of them, and the bar that they show.

Says errors as typer does.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worker.terminal import err, line

if TYPE_CHECKING:
    from worker.shop.columns import Rejects
    from worker.shop.source import Source


Json = Annotated[bool, typer.Option("--json", help="For programs: the result as JSON on standard output.")]
Map = Annotated[Path | None, typer.Option("--map", help="TOML file that says how a table's columns become events.")]
From = Annotated[str | None, typer.Option("--from", help="First day or time (RFC 3339); default: all.")]
To = Annotated[str | None, typer.Option("--to", help="The end, itself not included.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: CUDA where there is one.")
]
SetDevice = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="Default: the setting model.device.")
]


def folder(path: Path) -> Path:
    """Callback of an option that names a folder to write to: hours of work must not end without a place for them.

    Makes nothing: what fails later leaves no empty folder.
    """
    there = next(place for place in (path.absolute(), *path.absolute().parents) if os.access(place, os.F_OK))
    if not there.is_dir():
        raise typer.BadParameter(f"{path} cannot be made: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{path} cannot be written: {there} is closed to this user")
    return path


def file(path: Path | None) -> Path | None:
    """Callback of an option that names a file to write to; what is there and no file, a device too, is left alone."""
    if path is None:
        return None
    place = path.absolute().parent
    if not place.is_dir() or (path.exists() and not path.is_file()):
        raise typer.BadParameter(f"{path} is no file in an existing folder")
    if not os.access(place, os.W_OK | os.X_OK):  # it is written beside its place, and moved there whole
        raise typer.BadParameter(f"{path} cannot be written: {place} is closed to this user")
    return path


Scores = Annotated[
    Path, typer.Option("--out", callback=file, help="Parquet file for the scores; replaced when it exists.")
]


def time_ms(source: "Source", text: str | None, option: str) -> int | None:
    """A day or a time as the source reads it, UTC ms; `None` for none."""
    try:
        return None if text is None else source.time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def span(
    source: "Source", begin: str | None, end: str | None, *, names: tuple[str, str] = ("--from", "--to")
) -> tuple[int | None, int | None]:
    """Both ends, of options so named, as `time_ms` reads them; the first lies before the second."""
    begin_ms, end_ms = (time_ms(source, text, name) for text, name in zip((begin, end), names, strict=True))
    if begin_ms is not None and end_ms is not None and begin_ms >= end_ms:
        raise typer.BadParameter(f"{begin} is not before {names[1]}, which is {end}", param_hint=names[0])
    return begin_ms, end_ms


def topic_name(name: str | None) -> str | None:
    """Callback of `--topic`: what is no topic's name is refused as the option's, not as the setting's in its place."""
    from worker.settings import ACCEPTED, TOPIC

    if name is not None and re.search(TOPIC, name) is None:
        raise typer.BadParameter(f"{name!r}: {ACCEPTED[TOPIC]}")
    return name


Topic = Annotated[
    str | None,
    typer.Option("--topic", callback=topic_name, help="Source topic; default: the setting topics.events."),
]


def topic(name: str | None) -> str:
    """By what the events topic is named, where `--topic` may."""
    return "setting `topics.events`" if name is None else "--topic"


def counts(of: Mapping[str, int]) -> str:
    """Counts by name, in a line for people; what there is none of is left out."""
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in of.items() if count)


def tell(rejects: "Rejects") -> None:
    """A line a reason, beside the results."""
    if rejects.total:
        line(f"{rejects.total:,} rows rejected", to=err)
    for reason, count in rejects.counts.most_common():
        line(f"  {reason} {count:,}, the first: {rejects.examples[reason]}", to=err)


def place(device: str) -> str:
    """`cpu` or `cuda`, of `auto`, `cpu` and `cuda`."""
    import torch

    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise typer.BadParameter("torch finds no CUDA device; use auto or cpu", param_hint="--device")
    return "cuda" if cuda and device != "cpu" else "cpu"


def command_line() -> str:
    """As it was given, for model cards and the folders of runs."""
    return shlex.join(["intent", *sys.argv[1:]])


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar with the time that is left, on a terminal; elsewhere only what is printed beside it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        yield shown
