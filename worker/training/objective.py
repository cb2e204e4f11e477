"""What a step's loss is, and the gradients of a batch. Knows tensors and a network; neither data sets nor optimisers.

Cross-entropy of each target and of each member of the head, where the instant's label counts. Beside it, each off by
default: focal loss (Lin et al. 2017), a weight of positive labels, and adversarial steps on the embeddings, the fast
gradient method (Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification").
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional


def losses(out: Tensor, target: Tensor, *, focal: float = 0.0, positive: float = 1.0) -> Tensor:
    """[b, members, targets] logits and [b, targets] labels of 0 and 1 -> [b, targets], the members' mean.

    `focal` is the power of (1 - probability of the true label) that weighs an instant: easy ones count less.
    `positive` is the weight of an instant whose label is 1.
    """
    wanted = target[:, None].expand_as(out)
    each = functional.binary_cross_entropy_with_logits(out, wanted, reduction="none")
    if focal:
        each = each * (1 - torch.exp(-each)) ** focal
    if positive != 1.0:
        each = each * (1 + (positive - 1) * wanted)
    return each.mean(dim=1)


def adversarial(backward: Callable[[], float], tables: list[Tensor], *, radius: float) -> float:
    """`backward`, then again with the embedding tables moved against it; gradients add up. The first one's loss.

    The tables move along their gradient, by `radius` in all (the norm over a table): the direction in which the loss
    grows fastest. A table without gradients stays where it is.
    """
    loss = backward()
    with moved(tables, radius=radius):
        backward()
    return loss


@contextmanager
def moved(tables: list[Tensor], *, radius: float) -> Iterator[None]:
    """The tables so far along their gradients; afterwards back, to the bit."""
    before = [table.detach().clone() for table in tables]
    try:
        with torch.no_grad():
            for table in tables:
                if table.grad is not None:
                    table.add_(table.grad, alpha=radius / (float(table.grad.norm()) + 1e-12))
        yield
    finally:
        with torch.no_grad():
            for table, old in zip(tables, before, strict=True):
                table.copy_(old)
