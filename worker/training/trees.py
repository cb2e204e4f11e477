"""Gradient-boosted trees on what is known at an instant: a run's teacher, and the rival that it is measured against.

The settings are the best found on validation among leaves, rates, shares and row weights: an instant weighs
1 / sqrt(events of its session), since the instants of a long session are near copies. LightGBM: Ke et al. 2017. Knows
tables, neither windows nor networks.
"""

from typing import Any, Final

import numpy as np
import torch  # noqa: F401 - before LightGBM: it brings the OpenMP library, which a bare machine lacks
from lightgbm import Booster as Booster  # noqa: PLC0414 - for those who keep what `grow` made
from lightgbm import Dataset
from lightgbm import train as boost
from numpy.typing import NDArray

from worker.scoring.batch import Bools, Floats
from worker.training.features import CATEGORIES

SETTINGS: Final[dict[str, Any]] = {
    "objective": "binary",
    "learning_rate": 0.04,
    "num_leaves": 15,
    "min_data_in_leaf": 1000,
    "feature_fraction": 0.2,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "lambda_l2": 20,
    "max_bin": 63,
    "cat_smooth": 100,
    "cat_l2": 50,
    "max_cat_threshold": 16,
    "force_col_wise": True,
    "deterministic": True,
    "seed": 1,
    "verbose": -1,
}


LEAVES: Final = 100
"""A small shop's leaf may be this part of its rows: with a thousand each, of a few thousand none would be split."""


def grow(table: Floats, y: Bools, session: NDArray[np.int64], *, rounds: int) -> Booster:
    """So many trees on `Features.table` [n, columns], labels [n] and sessions [n]; some seconds for 100,000 rows."""
    _, which, events = np.unique(session, return_inverse=True, return_counts=True)
    weight = events[which] ** -0.5
    columns = table.shape[1]
    data = Dataset(
        table, y, weight=weight / weight.mean(), categorical_feature=list(range(columns - CATEGORIES, columns))
    )
    settings = SETTINGS
    if (least := len(y) // LEAVES) < SETTINGS["min_data_in_leaf"]:
        settings = SETTINGS | {"min_data_in_leaf": least, "num_threads": 1}  # several would wait for one another
    return boost(settings, data, rounds)
