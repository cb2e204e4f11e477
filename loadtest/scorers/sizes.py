"""The models that are compared: the shipped one, and larger ones whose weights are random but whose scores vary."""

from dataclasses import replace
from typing import Final

import torch

from loadtest.scorers.work import Columns
from worker.scoring import bundle, forward
from worker.scoring.bundle import Bundle
from worker.scoring.head import SIZES
from worker.scoring.model import IntentModel, build, weights

SHIPPED: Final = "tiny"
_SEED: Final = 1


def load(size: str) -> Bundle:
    """A bundle of this size, ready to score on the CPU. Larger ones have the shipped vocabulary and kind of head."""
    shipped = bundle.load()
    if size == SHIPPED:
        return shipped
    torch.manual_seed(_SEED)
    shape = replace(SIZES[size], members=shipped.shape.members, aside=shipped.shape.aside)
    model = build(shape, shipped.vocabulary).eval()
    return replace(shipped, name=size, version="random", shape=shape, weights=weights(model))


@torch.no_grad()
def spread(random: Bundle, columns: Columns) -> None:
    """Rescales a random model in place, so that these windows' logits vary as a trained model's do.

    Fresh weights give every window nearly the same score, and no difference between two programs would show: matrices
    are doubled, and the last layer is scaled to logits of mean 0 and deviation 1.
    """
    model: IntentModel = random.model
    for matrix in model.bert.parameters():
        if matrix.dim() == 2:
            matrix.mul_(2.0)
    logits = torch.from_numpy(
        forward.logits(random.weights, random.vocabulary, columns.batch, device=torch.device("cpu"))
    )
    model.head.rescale(logits.mean(dim=0), logits.std(dim=0).clamp_min(1e-6))
