"""Instants to measure on: visitors whose chance to buy is known, scorers that see it more or less well."""

import numpy as np

from worker.evaluation.compare import Scored
from worker.evaluation.slices import DECISION, EVERY
from worker.scoring.batch import Floats
from worker.training.labels import Bools

VISITORS, EACH = 700, 4


def chances(rng: np.random.Generator) -> tuple[Floats, Bools, np.ndarray]:
    """[n, 3] true probabilities, [n, 3] outcomes, [n] visitors: `EACH` instants of each share most of their chance."""
    own = np.repeat(rng.normal(-1.5, 1.2, VISITORS), EACH)
    logit = own[:, None] + rng.normal(0, 0.5, (VISITORS * EACH, 1)) + np.array([0, 0.3, 0.6])
    p = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return p, rng.random(p.shape) < p, np.repeat(np.arange(VISITORS), EACH)


def blurred(p: Floats, rng: np.random.Generator, noise: float) -> Floats:
    """What sees the chances through so much noise, in logits."""
    logit = np.log(p / (1 - p)) + rng.normal(0, noise, (len(p), 1))
    return np.asarray(1 / (1 + np.exp(-logit)), np.float32)


def scored(rng: np.random.Generator, *, noise: dict[str, float]) -> Scored:
    """Every scorer sees through its own noise. Half of the instants are in a population, one alone in another."""
    p, y, visitor = chances(rng)
    n = len(p)
    return Scored(
        member=np.ones((n, 3), np.bool_),
        y=y,
        visitor=visitor,
        populations={
            EVERY: {EVERY: np.ones(n, np.bool_)},
            DECISION: {"3rd event": np.arange(n) % 2 == 0},
            "device": {"watch": np.arange(n) == 0},
        },
        scorers={name: blurred(p, rng, by) for name, by in noise.items()},
    )
