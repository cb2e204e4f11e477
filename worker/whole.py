"""Files that are complete or not there. Knows nothing of what is in them."""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def unfinished(name: str) -> str:
    """Another name for what is not whole yet; whoever else writes the same has another one."""
    return f".{name}.{secrets.token_hex(4)}"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write to, gone at the end unless it was put elsewhere.

    Those that killed processes left beside the same `path` go first: whoever writes one has it locked, and whatever
    ends the process gives that back. Where files cannot be locked, they stay.
    """
    _sweep(path)
    place, held = _locked(path)
    try:
        yield place
    finally:
        os.close(held)
        place.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; what was written there is moved to `path` at the end, by one step.

    A reader sees the former file or the new one, and whoever is killed, or fails, leaves the former; a power cut leaves
    one of them. Of two that write one file the later stands.
    """
    with beside(path) as place:
        yield place
        put(place, path)


def _locked(path: Path) -> tuple[Path, int]:
    while True:
        place = path.with_name(unfinished(path.name))
        held = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        if os.fstat(held).st_nlink:
            return place, held
        os.close(held)  # somebody swept it before it was locked


def _sweep(path: Path) -> None:
    stray = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    with suppress(OSError):  # what is wrong with the folder is told by who writes there
        for place in [one for one in path.parent.iterdir() if stray.fullmatch(one.name)]:
            with suppress(OSError):  # somebody writes it, or has just moved it, or may do so where this user may not
                held = os.open(place, os.O_RDWR)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    place.unlink()
                finally:
                    os.close(held)


def put(place: Path, path: Path) -> None:
    """In the place of `path`, by one step, what is whole beside it."""
    _sync(place)  # else a power cut may leave the name without the content
    place.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
