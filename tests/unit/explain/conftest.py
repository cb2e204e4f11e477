from pathlib import Path

import pytest

from tests.unit.explain import planted
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
def bundle() -> Bundle:
    """Random weights."""
    return making.bundle()


@pytest.fixture(scope="session")
def driven() -> Bundle:
    """A bundle whose scores one kind of event drives."""
    return planted.bundle()
