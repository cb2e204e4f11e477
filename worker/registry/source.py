"""One model of a store, for whoever loads it: an alias to its version, a version to a verified bundle.

Owns the cache: versions of a store elsewhere are copied to a folder here, once, and loaded from there. Whatever is not
exactly what its version says, is too large or of another format is refused. Knows neither the engine nor the worker.
"""

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from worker.errors import IntentError, SettingError
from worker.registry.store import Store
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle
from worker.settings import Model as ModelSettings

KEPT: Final = 4
"""So many versions of a model stay in the cache, those used last: the champion, the challenger, and a way back."""

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
            if not cached.is_dir():
                self._fetch(version, cached)
            cached.touch()
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
        beside = cached.with_name(f".{version}.{secrets.token_hex(4)}")
        try:
            beside.mkdir(parents=True)
            self._copy(version, bundles.CHECKSUMS, beside, limit=_CHECKSUMS_BYTES)
            listing = (beside / bundles.CHECKSUMS).read_text(errors="replace")
            listed = {line.partition("  ")[2] for line in listing.splitlines()}
            for file, limit in (bundles.FILES | bundles.OPTIONAL).items():
                if file in listed:
                    self._copy(version, file, beside, limit=limit)
            bundles.verify(beside)
            with suppress(OSError):  # another process was quicker
                beside.rename(cached)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _copy(self, version: str, file: str, folder: Path, *, limit: int) -> None:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as into:
            self.store.read(self.name, version, file, into, limit=limit)

    def _forget(self, *, besides: Path) -> None:
        """All but the versions used last. One that another process is about to load is fetched again there."""
        used = sorted(
            (path for path in self._cache.iterdir() if path != besides and not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for path in used[KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)


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
            f"the model {model.name} in {model.store} has no alias {model.alias} (setting `model.alias`); "
            f"`intent model promote {model.name} VERSION` makes it"
        )
    return source, partial(source.load, version)


def push(store: Store, folder: Path) -> tuple[Bundle, bool]:
    """Puts a local bundle into the store; the bundle, and whether its version is new there. Idempotent; blocks.

    Raises `SettingError` for a bundle that a worker would refuse, so that none gets in.
    """
    loaded = bundles.load(folder)
    version, contents = bundles.verify(folder)
    files = {**contents, bundles.CHECKSUMS: (folder / bundles.CHECKSUMS).read_bytes()}
    return loaded, store.write(loaded.name, version, files)
