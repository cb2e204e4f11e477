"""One model of a store, for whoever loads it: an alias to its version, a version to a verified bundle.

Owns the cache: versions of a store elsewhere are copied to a folder here, once, and loaded from there; a cache of their
own is for those who ask what the store holds now. Whatever is not exactly what its version says, is too large or of
another format is refused. Knows not the worker, and of the engine only which bundles it takes.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from worker.clock import now_ms
from worker.errors import IntentError, SettingError
from worker.registry.store import Store
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle
from worker.scoring.engine import tried
from worker.settings import Model as ModelSettings
from worker.whole import unfinished

KEPT: Final = 4
"""So many versions of a model stay in the cache, those used last: the champion, the challenger, and a way back."""

ABANDONED_S: Final = 3600.0
"""A folder that is being fetched into and is older than this is nobody's: its process was killed."""

_CHECKSUMS_BYTES: Final = 64 << 10


class Source:
    """The model `name` of `store`. `cache` is a folder of this machine; several processes may share it."""

    def __init__(self, store: Store, name: str, *, cache: Path) -> None:
        self.store = store
        self.name = name
        self._cache = cache / name

    def version(self, alias: str) -> str | None:
        """What the alias names; `None` where there is no such alias. Blocks; raises `IntentError`."""
        found = self.store.alias(self.name, alias)
        return None if found is None else found.version

    @contextmanager
    def fresh(self) -> Iterator["Source"]:
        """The same model with an empty cache, which goes when this is left: it gives what the store holds now.

        The other one, which workers share, stays as it is: a damaged store takes no sound copy from them.
        """
        cache = self._cache / unfinished("fresh")
        try:
            yield Source(self.store, self.name, cache=cache)
        finally:
            shutil.rmtree(cache, ignore_errors=True)

    def load(self, version: str) -> Bundle:
        """The bundle, verified, on the CPU. Blocks for as long as the store takes.

        Raises `SettingError` for one that is not there or not acceptable, `IntentError` where the store fails.
        """
        try:
            folder = self.folder(version)
            loaded = bundles.load(folder)
            self._check(loaded, version)
        except SettingError:
            if self.store.folder(self.name, version) is None:  # what is damaged here may be sound there
                shutil.rmtree(self._cache / version, ignore_errors=True)
            raise
        return loaded

    def folder(self, version: str) -> Path:
        """A folder of this machine that holds the version's files, checksums right. Blocks; raises as `load`."""
        if not self.store.has(self.name, version):
            raise SettingError(
                f"version {version} of {self.name} is not in {self.store.url}; `intent model list` shows what there is"
            )
        local = self.store.folder(self.name, version)
        if local is not None:
            return local
        cached = self._cache / version
        try:
            try:
                os.utime(cached)  # in one step with asking whether it is there: others forget what was not used
            except FileNotFoundError:
                self._fetch(version, cached)
            self._forget(besides=cached)
        except OSError as error:
            raise IntentError(
                f"the cache {self._cache} (setting `model.cache_dir`) cannot be written ({error.strerror})"
            ) from None
        return cached

    def _check(self, loaded: Bundle, version: str) -> None:
        if (loaded.name, loaded.version) != (self.name, version):
            raise SettingError(
                f"version {version} of {self.name} in {self.store.url} holds {loaded.name} {loaded.version}; "
                "push that bundle again, and promote the version that comes of it"
            )

    def _fetch(self, version: str, cached: Path) -> None:
        """Into a folder beside, verified there, then renamed: what is in the cache is whole."""
        beside = cached.with_name(unfinished(version))
        try:
            beside.mkdir(parents=True)
            self._copy(version, bundles.CHECKSUMS, beside, limit=_CHECKSUMS_BYTES)
            listing = (beside / bundles.CHECKSUMS).read_text(errors="replace")
            listed = {line.partition("  ")[2] for line in listing.splitlines()}
            for file, limit in (bundles.FILES | bundles.OPTIONAL).items():
                if file in listed:
                    self._copy(version, file, beside, limit=limit)
            self._verify(version, beside)
            try:
                beside.rename(cached)
            except OSError:
                if not cached.is_dir():  # else another process was quicker
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _verify(self, version: str, copy: Path) -> None:
        """Names the place in the store: the copy is no more when this is read."""
        try:
            bundles.verify(copy)
        except SettingError as error:
            raise SettingError(str(error).replace(str(copy), f"{self.store.url}/{self.name}/{version}")) from None

    def _copy(self, version: str, file: str, folder: Path, *, limit: int) -> None:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as into:
            self.store.read(self.name, version, file, into, limit=limit)

    def _forget(self, *, besides: Path) -> None:
        """All but the versions used last, and what killed processes left behind.

        One that another process is about to load is fetched again there.
        """
        others = {path: _changed_s(path) for path in self._cache.iterdir() if path != besides}
        used = [path for path in others if not path.name.startswith(".")]
        used.sort(key=others.__getitem__, reverse=True)
        old_s = now_ms() / 1000 - ABANDONED_S
        abandoned = [path for path, changed_s in others.items() if path.name.startswith(".") and changed_s < old_s]
        for path in used[KEPT - 1 :] + abandoned:
            shutil.rmtree(path, ignore_errors=True)


def _changed_s(path: Path) -> float:
    """When the folder changed last, seconds since 1970; long ago for one that another process has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def configured(model: ModelSettings) -> tuple[Source | None, Callable[[], Bundle]]:
    """Where the successors come from of what scores by the settings, if anywhere, and what loads it.

    Both block; the second raises as `Source.load`.
    """
    if model.store is None or model.name is None:
        return None, partial(bundles.load, model.bundle)
    source = Source(Store(model.store), model.name, cache=model.cache_dir)
    version = source.version(model.alias)
    if version is None:
        raise SettingError(
            f"{source.store.lacks(model.name, model.alias)} (settings `model.store`, `model.name`, `model.alias`); "
            f"`intent model push` puts a bundle there, `intent model promote {model.name} VERSION` makes an alias"
        )
    return source, partial(source.load, version)


def push(store: Store, folder: Path) -> tuple[Bundle, bool]:
    """Puts a local bundle into the store; the bundle, and whether anything had to be written. Idempotent; blocks.

    A version that is there and does not hold what it should is put right. Raises `SettingError` for a bundle that a
    worker would refuse, so that none gets in.
    """
    loaded = tried(bundles.load(folder))
    version, contents = bundles.verify(folder)
    files = {**contents, bundles.CHECKSUMS: (folder / bundles.CHECKSUMS).read_bytes()}
    return loaded, store.write(loaded.name, version, files)
