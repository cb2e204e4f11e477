"""The head behind the BERT: small networks that see the window's vector, its aggregates and its context.

They are a deep ensemble (Lakshminarayanan et al. 2017): alike but for how they began, each trained by a loss of its
own, served as their mean. What one overfits, the others do not, as long as they share nothing: neither weights nor
batches. All members run at once, as batched products. Knows tensors only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linears(nn.Module):
    """A linear layer for each of so many members."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5  # as torch's own linear layers begin
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[members, b, inputs] -> [members, b, outputs]."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)

    def narrow(self, outputs: int) -> None:
        """Keeps the first so many outputs."""
        self.weight = nn.Parameter(self.weight[:, :, :outputs].detach().clone())
        self.bias = nn.Parameter(self.bias[:, :outputs].detach().clone())


class Ensemble(nn.Module):
    """Members that read the aggregates and the context, then what they made of them beside the window's vector."""

    def __init__(self, hidden: int, side: int, *, members: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.members = members
        self.read = Linears(members, side, width)
        self.digest = Linears(members, width, width)
        self.join = Linears(members, hidden + width, width)
        self.answer = Linears(members, width, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, window: Tensor, side: Tensor) -> Tensor:
        """[b, hidden], [members, b, side] -> [b, members, outputs]."""
        known = self.dropout(functional.gelu(self.read(side)))
        known = functional.gelu(self.digest(known))  # [members, b, width]
        both = torch.cat([window.to(known.dtype).expand(self.members, *window.shape), known], dim=2)
        out: Tensor = self.answer(self.dropout(functional.gelu(self.join(self.dropout(both)))))
        return out.transpose(0, 1)

    @torch.no_grad()
    def seat(self, place: int, member: "Ensemble") -> None:
        """A copy of an ensemble of one as the member at `place`; where this one sees no window, without its part."""
        hidden = member.join.weight.shape[1] - self.join.weight.shape[1]
        for name in ("read", "digest", "join", "answer"):
            mine, its = getattr(self, name), getattr(member, name)
            mine.weight[place] = its.weight[0, hidden if name == "join" else 0 :]
            mine.bias[place] = its.bias[0]
