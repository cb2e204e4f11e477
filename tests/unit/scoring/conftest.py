from pathlib import Path

import pytest

from tests.unit.scoring import making
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's folder. Not to be written to."""
    path = tmp_path_factory.mktemp("bundle")
    bundles.save(path, making.bundle())
    return path


@pytest.fixture(scope="session")
def bundle(folder: Path) -> Bundle:
    return bundles.load(folder)
