"""Windows of like length together, whatever the order they came in."""

import numpy as np

from worker.scoring.forward import groups


def test_groups_hold_every_window_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 3000)
    found = list(groups(lengths, max_windows=256))
    assert sorted(np.concatenate(found).tolist()) == list(range(3000))
    for chosen in found:
        assert len(chosen) <= 256
        assert (lengths[chosen].max() - lengths[chosen]).sum() <= 1024
