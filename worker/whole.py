"""Files that are complete or not there. Knows nothing of what is in them."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def unfinished(name: str) -> str:
    """Another name for what is not whole yet; whoever else writes the same has another one."""
    return f".{name}.{secrets.token_hex(4)}"


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; what was written there is moved to `path` at the end, by one step.

    A reader sees the former file or the new one, and whoever is killed, or fails, leaves the former; a power cut leaves
    one of them. Of two that write one file the later stands.
    """
    beside = path.with_name(unfinished(path.name))
    try:
        yield beside
        put(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def put(beside: Path, path: Path) -> None:
    """In the place of `path`, by one step, what is whole beside it."""
    _sync(beside)  # else a power cut may leave the name without the content
    beside.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
