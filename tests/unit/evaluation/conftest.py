from pathlib import Path

import pytest

from tests.unit.training import samples


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a made-up sample of 900 visitors. Not to be written to."""
    return samples.shop(tmp_path_factory.mktemp("shop"), visitors=900, seed=7)
