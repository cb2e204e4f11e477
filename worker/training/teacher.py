"""Labels softened by a teacher: what trees that never saw a visitor say of them, mixed into what happened.

Trees find in the aggregates what a small network has to be shown (distillation: Hinton et al. 2015). They are grown on
one half of the visitors and asked about the other, both ways round: of what it has learnt by heart, a teacher only
repeats the label. Trees are needed for training alone; the network that is served has learnt from them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from worker.scoring import encode
from worker.scoring.batch import Floats
from worker.training.checkpoints import Checkpoints
from worker.training.examples import Examples
from worker.training.features import Features
from worker.training.labels import NAMES, held_out

STAGE: Final = "the teacher"
ROUNDS: Final = 250
"""Of trees: about what validation chooses for the rival on the sample."""
_HALVES: Final = 2


def softened(
    examples: Examples,
    vocabulary: encode.Vocabulary,
    *,
    share: float,
    stage: str,
    keep: Checkpoints | None,
    say: Callable[[str], None] = lambda _: None,
) -> Examples:
    """The examples with `share` of each horizon's label that counts replaced by the teacher's answer.

    Minutes of every core for a million events; `say` hears of each horizon. With `keep`, the answers are kept as the
    checkpoint `stage`.
    """
    pool = examples.pool
    found = None if keep is None else keep.load(stage)
    if found is None:
        found = {"answers": torch.from_numpy(_answers(examples, vocabulary, stage, say))}
        if keep is not None:
            keep.save(stage, found)
    answers = found["answers"].numpy()
    y = examples.y.astype(np.float32)
    true, counted = y[pool, : len(NAMES)], examples.counted[pool, : len(NAMES)]
    y[pool, : len(NAMES)] = np.where(counted, (1 - share) * true + share * answers, true)
    return replace(examples, y=y)


def _answers(examples: Examples, vocabulary: encode.Vocabulary, stage: str, say: Callable[[str], None]) -> Floats:
    """[len(pool), HORIZONS] probabilities; 0 where a label does not count."""
    from worker.training import trees  # LightGBM comes with the extra `training` only

    pool = examples.pool
    table = Features.of(examples.windows, pool, vocabulary).table()
    y, counted, session = examples.y[pool], examples.counted[pool], examples.session[pool]
    half = held_out(examples.visitor[pool], one_in=_HALVES)
    out = np.zeros((len(pool), len(NAMES)), np.float32)
    for at, horizon in enumerate(NAMES):
        say(f"{stage}: trees for {horizon}")
        for asked in (half, ~half):
            taught, wanted = counted[:, at] & ~asked, counted[:, at] & asked
            grown = trees.grow(table[taught], y[taught, at] > 0, session[taught], rounds=ROUNDS)
            out[wanted, at] = np.asarray(grown.predict(table[wanted]))
    return out
