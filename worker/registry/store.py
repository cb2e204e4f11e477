"""Where models are kept: a plain folder, or any URL that fsspec reaches. Owns the layout, the names, how writes land.

===================================== ==========================================================================
``<store>/<name>/<version>/…``        a bundle's files; the version is the hash of their checksums
``<store>/<name>/aliases/<alias>.json`` which version `champion` or `challenger` is, and was
===================================== ==========================================================================

Every file is put whole or not at all: in a folder and over SFTP by a rename, elsewhere as one object (FTP, SMB and HDFS
have neither: there a file is written in place). A version's checksums come last: without them it is not there yet, and
pushing it again completes it. Nothing of a version that is there ever changes, but for files that were damaged, which
the next push puts right. An alias is one file, so that a move is one step. In a folder moves take turns, so that each
can look first (`Store.moving`); elsewhere, of two at the same moment the later stands, without a trace of the other.

Knows bytes and names; what a bundle means is `scoring.bundle`'s.
"""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from worker.alone import alone
from worker.errors import IntentError, SettingError
from worker.registry import alias as aliases
from worker.registry.alias import Alias
from worker.settings import MODEL_ALIAS, MODEL_NAME
from worker.whole import unfinished, written

_NAME: Final = re.compile(MODEL_NAME)
_VERSION: Final = re.compile(r"[0-9a-f]{12}")
_ALIAS: Final = re.compile(MODEL_ALIAS)
_ALIASES: Final = "aliases"
_SUFFIX: Final = ".json"
_CHUNK_BYTES: Final = 1 << 20
_RENAMING: Final = ("sftp", "ssh")
"""Protocols that write a file in place, so that a reader may see half of it, and whose renames replace in one step."""

LAST: Final = "checksums.sha256"
"""The file of a version that is written last: `scoring.bundle.CHECKSUMS`, which cannot be had without torch."""


class Store:
    """Models and aliases at one place. Everything blocks; errors are `IntentError`, one sentence.

    Of these, `SettingError` means that something was asked for which is not there or not acceptable, the others that
    the store cannot be reached or does not do what it should.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        said = f"--store or the setting `model.store` is {url!r}"
        if not url.strip():
            raise SettingError(f"{said}, which names no place; accepted are a folder and a URL that fsspec reaches")
        if "::" in url:
            raise SettingError(f"{said}: a chained URL may cache an alias that has moved")
        try:
            # each store its own, without a cache of listings: a stale one would hide an alias that moved. Not by an
            # option of `url_to_fs`, which some protocols hand on to connections that know no such thing.
            self._fs, self._root = url_to_fs(url, skip_instance_cache=True)
            self._fs.dircache.use_listings_cache = False
        except ImportError as error:
            raise SettingError(f"{said}, which needs a package: {_reason(error)}") from None
        except Exception as error:  # of whichever library serves the protocol
            raise SettingError(f"{said}, which is no folder or URL that can be opened: {_reason(error)}") from None
        self._local = isinstance(self._fs, LocalFileSystem)
        self._renaming = get_protocol(url) in _RENAMING

    # -- what is there -------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The models."""
        if self._fs.isfile(self._root):
            raise SettingError(f"--store or the setting `model.store` is {self.url!r}, a file; name a folder")
        return sorted(name for name in self._list() if _NAME.fullmatch(name))

    def versions(self, name: str) -> list[str]:
        """Versions of a model that are there whole."""
        found = (version for version in self._list(named(name)) if _VERSION.fullmatch(version))
        return sorted(version for version in found if self.has(name, version))

    def has(self, name: str, version: str) -> bool:
        """Whether the version is there, whole."""
        path = self._path(named(name), versioned(version), LAST)
        try:
            with self._reaching(missing=path):
                self._fs.info(path)  # `exists` would say no for whatever goes wrong on the way
        except _Missing:
            return False
        return True

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

    def lacks(self, name: str, alias: str) -> str:
        """Why there is no such alias, for people: often another store, or another name, was meant."""
        names = self.names()
        if name in names:
            return f"the model {name} in {self.url} has no alias {alias}"
        return f"{self.url} holds no model {name}, " + (f"only {', '.join(names)}" if names else "nor any other")

    @contextmanager
    def moving(self, name: str) -> Iterator[None]:
        """Nobody else is in here for this model; only in a folder, for object stores have no locks."""
        if not self._local:
            yield
            return
        folder = Path(self._path(named(name), _ALIASES))
        with ExitStack() as held:
            with self._reaching():
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(alone(folder / ".lock"))
            yield

    def move(self, name: str, alias: str, value: Alias) -> None:
        """The alias is `value` from now on, in one step."""
        self._put(self._path(named(name), _ALIASES, aliased(alias) + _SUFFIX), aliases.encode(value))

    def forget(self, name: str, alias: str) -> bool:
        """There is no such alias any more, nor what it named before. Whether there was one, readable or not."""
        file = aliased(alias) + _SUFFIX
        if file not in self._list(named(name), _ALIASES):  # some file systems remove what is not there without a word
            return False
        path = self._path(name, _ALIASES, file)
        with self._reaching(missing=path):
            self._fs.rm_file(path)
        return True

    # -- versions ------------------------------------------------------------------------------------------------------

    def write(self, name: str, version: str, files: Mapping[str, bytes]) -> bool:
        """A version's files, `LAST` last; of one that is there, those that are gone or not what they should be.

        Whether anything had to be written.
        """
        there = self.has(name, version)
        paths = {file: self._path(name, version, file) for file in files}
        wanted = [file for file in files if not (there and self._holds(paths[file], files[file]))]
        for file in sorted(wanted, key=lambda file: (file == LAST, file)):
            self._put(paths[file], files[file])
        return bool(wanted)

    # -- the file system -----------------------------------------------------------------------------------------------

    def _path(self, *parts: str) -> str:
        return "/".join([self._root.rstrip("/"), *parts])

    def _list(self, *parts: str) -> list[str]:
        """Names in a folder; none where there is no such folder."""
        path = self._path(*parts)
        try:
            with self._reaching(missing=path):
                self._fs.invalidate_cache()
                found = self._fs.ls(path, detail=False)
        except _Missing:
            return []
        return [str(one).rstrip("/").rpartition("/")[2] for one in found]

    def _chunks(self, path: str, *, limit: int) -> Iterator[bytes]:
        left = limit
        with self._reaching(missing=path), self._fs.open(path, "rb") as file:
            while chunk := file.read(min(_CHUNK_BYTES, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise SettingError(f"{path} is larger than the {limit} bytes that are accepted")
                yield chunk

    def _holds(self, path: str, content: bytes) -> bool:
        try:
            return b"".join(self._chunks(path, limit=len(content))) == content
        except SettingError:  # not there, or longer
            return False

    def _put(self, path: str, content: bytes) -> None:
        """One file, whole or not at all."""
        with self._reaching():
            if self._local:
                place = Path(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                with written(place) as beside:
                    beside.write_bytes(content)
            elif self._renaming:
                self._pipe_beside(path, content)
            else:
                self._pipe(path, content)

    def _pipe(self, path: str, content: bytes) -> None:
        try:
            self._fs.pipe_file(path, content)
        except OSError as error:
            if not _absent(error):
                raise
            # where folders are more than a part of a name
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, content)

    def _pipe_beside(self, path: str, content: bytes) -> None:
        """`whole.written`, elsewhere."""
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/{unfinished(name)}"
        try:
            self._pipe(beside, content)
            self._fs.mv(beside, path)
        except Exception:
            with suppress(Exception):  # the first error is the one to tell
                self._fs.rm_file(beside)
            raise

    @contextmanager
    def _reaching(self, *, missing: str | None = None) -> Iterator[None]:
        """What a file system of whatever library raises, as one sentence. `missing`: what is asked for, if anything."""
        try:
            yield
        except IntentError:
            raise
        except Exception as error:  # each protocol's library has errors of its own
            if missing is not None and _absent(error):
                raise _Missing(f"{missing} is not there") from None
            raise IntentError(f"the model store {self.url} does not do what it should: {_reason(error)}") from None


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


def _absent(error: Exception) -> bool:
    """Whether it says that there is no such file; some libraries have a class of their own, with its number."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return True
    return isinstance(error, OSError) and error.errno in {errno.ENOENT, errno.ENOTDIR}


def _reason(error: Exception) -> str:
    """In one line of bounded length, whatever a library says."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
