from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.unit.training import samples


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a made-up sample of 900 visitors. Not to be written to."""
    return samples.shop(tmp_path_factory.mktemp("shop"), visitors=900, seed=7)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Of torch's. With several, sums may be taken in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
