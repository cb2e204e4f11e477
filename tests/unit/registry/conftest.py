"""Two versions of one model, and a place to keep them: a folder, or one of two that are none."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as protocols

from tests.unit.registry.models import Versions
from tests.unit.registry.sftp import Sftp
from tests.unit.scoring import making
from worker.registry.source import push
from worker.registry.store import Store
from worker.scoring import bundle as bundles


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Do not change them: other tests read them too."""
    folder = tmp_path_factory.mktemp("models")
    first = bundles.save(folder / "first", making.bundle(seed=3))
    second = bundles.save(folder / "second", making.bundle(seed=4))
    return Versions(folder, first, second)


@pytest.fixture
def sftp(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty folder there."""
    monkeypatch.setitem(protocols, "sftp", Sftp)
    Sftp.empty()
    yield "sftp://somebody@host/models"
    Sftp.empty()


@pytest.fixture(params=["folder", "memory", "sftp"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    if request.param == "sftp":
        yield Store(request.getfixturevalue("sftp"))
        return
    if request.param == "folder":
        yield Store(str(tmp_path / "store"))
        return
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield Store("memory://models")
    MemoryFileSystem.store.clear()


@pytest.fixture
def filled(store: Store, made: Versions) -> Store:
    """A store with both versions and no alias."""
    push(store, made.folder / "first")
    push(store, made.folder / "second")
    return store


@pytest.fixture
def copy(made: Versions, tmp_path: Path) -> Path:
    """A bundle's folder that may be changed."""
    return Path(shutil.copytree(made.folder / "first", tmp_path / "copy"))
