"""Our rank correlation against SciPy's."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from worker.training.ranks import rank_correlation


def test_it_is_spearmans() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        one, other = rng.integers(0, 6, 12).astype(float), rng.normal(size=12)
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_what_does_not_vary_goes_with_nothing() -> None:
    assert rank_correlation(np.zeros(5), np.arange(5.0)) == 0.0
