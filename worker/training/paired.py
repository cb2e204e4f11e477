"""By how much one scorer is better than another on the same events: paired differences. Knows arrays only."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.training.metrics import Estimate, Labels, Probabilities, measure

PAIRED: Final = ("auc", "ap", "log_loss")


def differences(
    before: Probabilities,
    after: Probabilities,
    y: Labels,
    user: NDArray[np.int64],
    *,
    draws: int,
    seed: int = 0,
    metrics: Sequence[str] = PAIRED,
) -> dict[str, Estimate]:
    """Metrics of `after` minus those of `before`, [n] each, with 95 % intervals.

    A draw resamples users, with all of their events, for both at once: what is hard for both cancels out.
    """
    _, owner = np.unique(user, return_inverse=True)
    n_users = int(owner.max()) + 1
    rng = np.random.default_rng(seed)

    def difference(weights: NDArray[np.float64]) -> list[float]:
        old, new = measure(before, y, weights), measure(after, y, weights)
        return [new[name] - old[name] for name in metrics]

    value = difference(np.ones(len(y)))
    drawn = [
        difference(np.bincount(rng.integers(0, n_users, n_users), minlength=n_users).astype(np.float64)[owner])
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return {name: Estimate(value[at], float(low[at]), float(high[at])) for at, name in enumerate(metrics)}
