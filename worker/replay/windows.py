"""Users' windows for the length of a replay: in memory, or in a folder on disk that goes with it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from rocksdict import Options, Rdict

from worker.errors import IntentError

State = Literal["memory", "disk"]


class Windows(Protocol):
    """By user."""

    def get(self, key: bytes) -> bytes | None:
        """The window, `None` for an unknown user."""

    def __setitem__(self, key: bytes, window: bytes) -> None: ...
    def __delitem__(self, key: bytes) -> None: ...
    def __contains__(self, key: bytes) -> bool: ...


@contextmanager
def throwaway(state: State) -> Iterator[Windows]:
    """Empty windows, gone afterwards: a dictionary, or a RocksDB for more users than memory holds.

    Raises `IntentError`, one sentence, where the disk does not serve, now or later.
    """
    if state == "memory":
        yield {}
        return
    with _Using("a temporary folder"):
        folder = Path(tempfile.mkdtemp(prefix="intent-replay-"))
    try:
        windows = _Disk(folder)
        try:
            yield windows
        finally:
            windows.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Disk:
    """A RocksDB in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._using = _Using(f"the folder {folder}")
        with self._using:
            self._database = Rdict(str(folder / "windows"), Options(raw_mode=True))

    def get(self, key: bytes) -> bytes | None:
        with self._using:
            found: bytes | None = self._database.get(key)
            return found

    def __setitem__(self, key: bytes, window: bytes) -> None:
        with self._using:
            self._database[key] = window

    def __delitem__(self, key: bytes) -> None:
        with self._using:
            del self._database[key]

    def __contains__(self, key: bytes) -> bool:
        with self._using:
            return key in self._database

    def close(self) -> None:
        """Whatever comes of it: nothing that is in there is wanted any more."""
        with suppress(Exception):
            self._database.close()


class _Using:
    """What goes wrong within, as one sentence that names `what`. A class, as it is entered for every window."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):  # RocksDB's have no class of their own
            reason = " ".join(str(error).split())
            raise IntentError(
                f"--state disk keeps windows in {self._what}, which cannot be used: {reason}; "
                "set TMPDIR to a folder on a disk with room"
            ) from None
