"""Files that are complete or not there. Knows nothing of what is in them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; what was written there is moved to `path` at the end, by one step.

    Whoever is killed, or fails, leaves a former file as it was. Of two processes that write one file the later stands.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut may leave the name without the content
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
