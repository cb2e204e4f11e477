"""What the head may be made of beside plain layers: ramps that cut numbers at quantiles, an ensemble in one network.

Both are from tables' side of the field, where they close most of the gap between networks and boosted trees: piecewise
linear encoding (Gorishniy et al. 2022, "On Embeddings for Numerical Features") and parameter-efficient ensembles
(Gorishniy et al. 2024, "TabM"). Knows tensors only.
"""

from typing import Final

import torch
from torch import Tensor, nn

NARROWEST: Final = 0.05
"""Deviations that a ramp rises over at the least: a step would turn rounding into another answer."""

_SPREAD = 0.5  # of the members' scales around 1 at the start: what makes them differ


class Ramps(nn.Module):
    """Each of n numbers as so many ramps, one a quantile: -1 below its bin, 1 above, linear within."""

    starts: Tensor
    widths: Tensor

    def __init__(self, numbers: int, *, bins: int) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(numbers, bins))
        self.register_buffer("widths", torch.ones(numbers, bins))

    def fit(self, values: Tensor) -> None:
        """Bins from a sample of [rows, numbers]: the lowest value, then the quantiles of what lies above it.

        Many numbers are mostly at their lowest (a count of 0), which plain quantiles would spend their bins on.
        """
        bins = self.starts.shape[1]
        for at, column in enumerate(values.double().unbind(1)):
            lowest = column.min()
            above = column[column > lowest]
            if len(above):
                inner = torch.quantile(above, torch.linspace(0, 1, bins, dtype=torch.float64))
                edges = torch.cat([lowest[None], inner])
                self.starts[at] = edges[:-1]
                self.widths[at] = edges.diff().clamp_min(NARROWEST)

    def forward(self, values: Tensor) -> Tensor:
        """[b, numbers] -> [b, numbers * bins]."""
        ramps = ((values[:, :, None] - self.starts) / self.widths).clamp(0, 1)  # [b, numbers, bins]
        return ramps.flatten(1) * 2 - 1


class Ensemble(nn.Module):
    """Members that share every matrix but the last, and see the inputs each through scales of its own.

    They are trained apart (a loss each) and served as their mean: what one overfits, the others do not.
    """

    def __init__(self, inputs: int, *, members: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.scales = nn.Parameter(1 + _SPREAD * torch.randn(members, inputs))
        self.first = nn.Linear(inputs, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Parameter(torch.randn(members, width, outputs) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(members, outputs))
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """[b, inputs] -> [b, members, outputs]."""
        hidden = inputs[:, None] * self.scales  # [b, members, inputs]
        hidden = self.dropout(self.activation(self.first(hidden)))
        hidden = self.dropout(self.activation(self.second(hidden)))  # [b, members, width]
        return torch.einsum("bmw,mwo->bmo", hidden, self.last) + self.bias
