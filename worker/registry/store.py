"""Where models are kept: a plain folder, or any URL that fsspec reaches. Owns the layout, the names, how writes land.

===================================== ==========================================================================
``<store>/<name>/<version>/…``        a bundle's files; the version is the hash of their checksums
``<store>/<name>/aliases/<alias>.json`` which version `champion` or `challenger` is, and was
===================================== ==========================================================================

Every file is put whole or not at all: in a folder by a rename, elsewhere as one object. A version's checksums come
last: without them it is not there yet, and pushing it again completes it. Nothing of a version that is there ever
changes. An alias is one file, so that a move is one step; of two moves at the same moment the later stands, without a
trace of the other.

Knows bytes and names; what a bundle means is `scoring.bundle`'s.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from worker.errors import IntentError, SettingError
from worker.registry import alias as aliases
from worker.registry.alias import Alias
from worker.settings import MODEL_ALIAS, MODEL_NAME

_NAME: Final = re.compile(MODEL_NAME)
_VERSION: Final = re.compile(r"[0-9a-f]{12}")
_ALIAS: Final = re.compile(MODEL_ALIAS)
_ALIASES: Final = "aliases"
_SUFFIX: Final = ".json"
_CHUNK_BYTES: Final = 1 << 20

LAST: Final = "checksums.sha256"
"""The file of a version that is written last: `scoring.bundle.CHECKSUMS`, which cannot be had without torch."""


class Store:
    """Models and aliases at one place. Everything blocks; errors are `IntentError`, one sentence.

    Of these, `SettingError` means that something was asked for which is not there or not acceptable, the others that
    the store cannot be reached or does not do what it should.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        if "::" in url:
            raise SettingError(f"the setting `model.store` is {url!r}: a chained URL may cache an alias that has moved")
        try:
            # each store its own: a listing that another one has cached would hide an alias that moved
            self._fs, self._root = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            raise SettingError(f"the setting `model.store` is {url!r}, which needs a package: {error}") from None
        except Exception as error:  # of whichever library serves the protocol
            raise SettingError(f"the setting `model.store` is {url!r}, which is no folder or URL: {error}") from None
        self._local = isinstance(self._fs, LocalFileSystem)

    # -- what is there -------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The models."""
        return sorted(name for name in self._list() if _NAME.fullmatch(name))

    def versions(self, name: str) -> list[str]:
        """Versions of a model that are there whole."""
        found = (version for version in self._list(named(name)) if _VERSION.fullmatch(version))
        return sorted(version for version in found if self.has(name, version))

    def has(self, name: str, version: str) -> bool:
        """Whether the version is there, whole."""
        path = self._path(named(name), versioned(version), LAST)
        with self._reaching():
            return bool(self._fs.exists(path))

    def folder(self, name: str, version: str) -> Path | None:
        """The version's folder, where the store is one on this machine."""
        return Path(self._path(named(name), versioned(version))) if self._local else None

    def read(self, name: str, version: str, file: str, into: BinaryIO, *, limit: int) -> None:
        """Copies one file. Raises `SettingError` where it is not there or longer than `limit` bytes."""
        into.writelines(self._chunks(self._path(named(name), versioned(version), file), limit=limit))

    # -- aliases -------------------------------------------------------------------------------------------------------

    def aliases(self, name: str) -> dict[str, Alias]:
        """All aliases of a model."""
        files = sorted(file for file in self._list(named(name), _ALIASES) if file.endswith(_SUFFIX))
        known = [file.removesuffix(_SUFFIX) for file in files]
        found = {alias: self.alias(name, alias) for alias in known if _ALIAS.fullmatch(alias)}
        return {alias: value for alias, value in found.items() if value is not None}

    def alias(self, name: str, alias: str) -> Alias | None:
        """One alias, `None` where there is none of that name."""
        path = self._path(named(name), _ALIASES, aliased(alias) + _SUFFIX)
        try:
            content = b"".join(self._chunks(path, limit=aliases.MAX_BYTES))
        except _Missing:
            return None
        try:
            value = aliases.decode(content)
            for move in value.moves:
                versioned(move.version)
        except (ValueError, SettingError) as error:
            raise SettingError(
                f"alias {alias} of {name} in {self.url} cannot be used: {error}; restore its file, or remove it"
            ) from None
        return value

    def move(self, name: str, alias: str, value: Alias) -> None:
        """The alias is `value` from now on, in one step."""
        self._put(self._path(named(name), _ALIASES, aliased(alias) + _SUFFIX), aliases.encode(value))

    def forget(self, name: str, alias: str) -> None:
        """There is no such alias any more, nor what it named before."""
        path = self._path(named(name), _ALIASES, aliased(alias) + _SUFFIX)
        with self._reaching(missing=path):
            self._fs.rm_file(path)

    # -- versions ------------------------------------------------------------------------------------------------------

    def write(self, name: str, version: str, files: Mapping[str, bytes]) -> bool:
        """A version's files, `LAST` last. Whether anything had to be written: one that is there is left alone."""
        if self.has(name, version):
            return False
        for file in sorted(files, key=lambda file: (file == LAST, file)):
            self._put(self._path(name, version, file), files[file])
        return True

    # -- the file system -----------------------------------------------------------------------------------------------

    def _path(self, *parts: str) -> str:
        return "/".join([self._root.rstrip("/"), *parts])

    def _list(self, *parts: str) -> list[str]:
        """Names in a folder; none where there is no such folder."""
        with self._reaching():
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(*parts), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    def _chunks(self, path: str, *, limit: int) -> Iterator[bytes]:
        left = limit
        with self._reaching(missing=path), self._fs.open(path, "rb") as file:
            while chunk := file.read(min(_CHUNK_BYTES, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise SettingError(f"{path} is larger than the {limit} bytes that are accepted")
                yield chunk

    def _put(self, path: str, content: bytes) -> None:
        """One file, whole or not at all."""
        with self._reaching():
            if self._local:
                _replace(Path(path), content)
                return
            try:
                self._fs.pipe_file(path, content)
            except FileNotFoundError:  # where folders are more than a part of a name
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, content)

    @contextmanager
    def _reaching(self, *, missing: str | None = None) -> Iterator[None]:
        """What a file system of whatever library raises, as one sentence."""
        try:
            yield
        except IntentError:
            raise
        except FileNotFoundError as error:
            raise _Missing(f"{missing or error} is not there") from None
        except Exception as error:  # each protocol's library has errors of its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise IntentError(f"the model store {self.url} does not do what it should: {reason}") from None


class _Missing(SettingError):
    """A file that is not there."""


def named(name: str) -> str:
    """The name, or `SettingError` for one that could lead out of the store."""
    return _accepted(name, _NAME, "model name", "letters, digits, `.`, `_` and `-`, at most 100")


def versioned(version: str) -> str:
    """The version, or `SettingError`."""
    return _accepted(version, _VERSION, "version", "12 hexadecimal digits, as `intent model list` shows them")


def aliased(alias: str) -> str:
    """The alias' name, or `SettingError`."""
    return _accepted(alias, _ALIAS, "alias", "lower case letters, digits and `-`, at most 32")


def _accepted(value: str, pattern: re.Pattern[str], what: str, accepted: str) -> str:
    if not pattern.fullmatch(value):
        raise SettingError(f"{value[:120]!r} is no {what}; accepted are {accepted}")
    return value


def _replace(path: Path, content: bytes) -> None:
    """Beside it first, then in its place: a reader sees the old content or the new, a power cut leaves one of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
