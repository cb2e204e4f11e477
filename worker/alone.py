"""One process at a time. Knows nothing of what it does then."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits for whoever has the file `lock`, and has it to the end; whatever ends the process gives it back.

    Raises `OSError` where it cannot be written.
    """
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
