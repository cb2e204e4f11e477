"""Losses against formulas written out, and an adversary that finds the direction a linear model is weakest in."""

import contextlib
import math

import pytest
import torch
from torch import nn

from worker.training import objective

OUT = torch.tensor([[[2.0, -1.0, 0.0]], [[-3.0, 0.5, 1.0]]])
TARGET = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


def by_hand(logit: float, label: float, *, focal: float, positive: float) -> float:
    true = 1 / (1 + math.exp(-logit if label else logit))
    return float((positive if label else 1.0) * (1 - true) ** focal * -math.log(true))


@pytest.mark.parametrize(("focal", "positive"), [(0.0, 1.0), (2.0, 1.0), (0.0, 5.0), (1.0, 3.0)])
def test_losses_are_the_formula(focal: float, positive: float) -> None:
    found = objective.losses(OUT, TARGET, focal=focal, positive=positive)
    wanted = [
        [by_hand(float(OUT[at, 0, k]), float(TARGET[at, k]), focal=focal, positive=positive) for k in range(3)]
        for at in range(2)
    ]
    assert found.tolist() == [pytest.approx(row, rel=1e-4) for row in wanted]


def test_each_member_has_a_loss_of_its_own() -> None:
    """The mean of their losses, not the loss of their mean."""
    two = torch.cat([OUT, -OUT], dim=1)
    found = objective.losses(two, TARGET)
    apart = (objective.losses(OUT, TARGET) + objective.losses(-OUT, TARGET)) / 2
    assert torch.allclose(found, apart)
    assert not torch.allclose(found, objective.losses(two.mean(dim=1, keepdim=True), TARGET))


def test_an_adversary_moves_the_table_against_the_loss_and_back() -> None:
    table, idle = nn.Embedding(3, 4), nn.Embedding(2, 4)
    before = table.weight.detach().clone()
    seen: list[torch.Tensor] = []
    direction = torch.tensor([1.0, -2.0, 0.0, 2.0])

    def backward() -> float:
        seen.append(table.weight.detach().clone())
        loss = (table.weight[1] @ direction).exp()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(loss.detach())

    first = objective.adversarial(backward, [table.weight, idle.weight], radius=0.3)
    moved = seen[1] - seen[0]
    assert first == pytest.approx(math.exp(float(before[1] @ direction)))
    assert moved[1].tolist() == pytest.approx((0.3 * direction / 3).tolist(), abs=1e-5)
    assert moved[[0, 2]].abs().max() == 0
    assert torch.equal(table.weight, before)
    assert table.weight.grad is not None
    scale = float(table.weight.grad[1, 0])
    assert scale == pytest.approx(first + first * math.exp(0.3 * 3), rel=1e-4)  # of both passes


def test_the_tables_come_back_when_the_second_pass_fails() -> None:
    table = nn.Embedding(3, 4)
    table.weight.grad = torch.ones(3, 4)
    before = table.weight.detach().clone()
    with contextlib.suppress(ZeroDivisionError), objective.moved([table.weight], radius=1.0):
        assert not torch.equal(table.weight, before)
        raise ZeroDivisionError
    assert torch.equal(table.weight, before)
