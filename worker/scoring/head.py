"""All of the network but its BERT: the events' embeddings before it, and behind it the fusion with what tables see.

One position per event: the sum of its fields' embeddings, behind a learnt vector in position 0 whose output stands for
the window. Knows tensors and sizes; neither the BERT, nor bytes, nor files, nor calibration.
"""

import copy
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor, nn

from worker.scoring import aggregates, encode
from worker.scoring.fusion import Ensemble

HORIZONS: Final = 3
"""Heads: a purchase within 30 minutes, 24 hours, 7 days."""

_CLIP = 6.0  # standard deviations; an aggregate further out says no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes that are a choice; the rest follows from the vocabulary. A bundle that lacks one has its default."""

    layers: int = 2
    hidden: int = 128
    heads: int = 4
    context_width: int = 8
    head_width: int = 128
    dropout: float = 0.2
    head_dropout: float = 0.4
    positions: int = encode.MAX_POSITIONS
    """Tokens of the longest window: a first one, and its events."""
    members: int = 1
    """Of the head that see the BERT's vector."""
    aside: int = 0
    """Of the head that see aggregates and context only."""
    apart: bool = False
    """Whether each member has embeddings of the context of its own; else all share one table."""


SIZES: Final = {
    "tiny": Shape(),
    "mini": Shape(layers=4, hidden=256, heads=4),
    "small": Shape(layers=4, hidden=512, heads=8),
    "base": Shape(layers=12, hidden=768, heads=12),
}
"""Shapes by name; the larger three are those of the published BERTs of these names."""


def positions(events: nn.EmbeddingBag, first: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """[b, L, FIELDS] -> BERT's [b, 1 + L, hidden] inputs, `first` before the events, and [b, 1 + L] mask."""
    b, length, fields = tokens.shape
    embedded = events(tokens.reshape(b * length, fields)).view(b, length, -1)
    inputs = torch.cat([first.expand(b, 1, -1), embedded], dim=1)
    mask = torch.cat([tokens.new_ones(b, 1), (tokens[:, :, 0] != encode.NOTHING).to(tokens.dtype)], dim=1)
    return inputs, mask


class Head(nn.Module):
    """Events' embeddings, context and aggregates, and the members that see them beside the BERT's vector."""

    means: Tensor
    deviations: Tensor
    context_base: Tensor

    def __init__(self, shape: Shape, *, event_rows: int, context_rows: list[int], targets: int = HORIZONS) -> None:
        super().__init__()
        n_aggregates = len(aggregates.NAMES)
        self.events = nn.EmbeddingBag(event_rows, shape.hidden, mode="sum", padding_idx=encode.NOTHING)
        self.first = nn.Parameter(torch.empty(shape.hidden))
        self.tables = shape.members + shape.aside if shape.apart else 1
        self.contexts = nn.Embedding(sum(context_rows), self.tables * shape.context_width)  # side by side
        starts = torch.tensor([*accumulate(context_rows[:-1], initial=0)], dtype=torch.int64)
        self.register_buffer("context_base", starts, persistent=False)
        self.register_buffer("means", torch.zeros(n_aggregates))
        self.register_buffer("deviations", torch.ones(n_aggregates))
        side = n_aggregates + len(context_rows) * shape.context_width

        def ensemble(hidden: int, members: int) -> Ensemble:
            sizes = {"members": members, "width": shape.head_width, "outputs": targets}
            return Ensemble(hidden, side, dropout=shape.head_dropout, **sizes)

        self.fusion = ensemble(shape.hidden, shape.members)
        self.aside = ensemble(0, shape.aside) if shape.aside else None
        for table in (self.events.weight, self.first, self.contexts.weight):
            nn.init.normal_(table, std=0.05)
        with torch.no_grad():
            self.events.weight[encode.NOTHING].zero_()

    def positions(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[b, L, FIELDS] -> BERT's [b, 1 + L, hidden] inputs and [b, 1 + L] mask."""
        return positions(self.events, self.first, tokens)

    def standard(self, sums: Tensor) -> Tensor:
        """[b, aggregates] in standard deviations of the training's, clipped."""
        return ((sums - self.means) / self.deviations).clamp(-_CLIP, _CLIP)

    def fuse(self, window: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        """[b, hidden], [b, columns of the context], [b, aggregates] -> [b, HORIZONS] logits."""
        return self.each(window, contexts, sums).mean(dim=1)

    def each(self, window: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        """As `fuse`, of every member: [b, members, HORIZONS]."""
        known = self.contexts(contexts + self.context_base)  # [b, columns, tables * context_width]
        known = known.unflatten(2, (self.tables, -1)).permute(2, 0, 1, 3).flatten(2)
        side = torch.cat([self.standard(sums).expand(self.tables, *sums.shape), known], dim=2)
        members = [self.fusion.members, 0 if self.aside is None else self.aside.members]
        seeing, others = torch.split(side.expand(sum(members), *side.shape[1:]), members)
        out: Tensor = self.fusion(window, seeing)
        return out if self.aside is None else torch.cat([out, self.aside(window[:, :0], others)], dim=1)

    @torch.no_grad()
    def mute(self) -> None:
        """Makes the BERT's vector say nothing yet: a head that was trained without it is left as it is."""
        self.fusion.join.weight[:, : len(self.first)].zero_()

    @torch.no_grad()
    def seat(self, place: int, alone: "Head") -> None:
        """A copy of a head of one member, of the same sizes, as the member at `place` of all; members must be apart."""
        width = self.contexts.embedding_dim // self.tables
        self.contexts.weight[:, place * width : (place + 1) * width] = alone.contexts.weight
        if place < self.fusion.members:
            self.fusion.seat(place, alone.fusion)
        elif self.aside is not None:
            self.aside.seat(place - self.fusion.members, alone.fusion)

    def narrowed(self) -> "Head":
        """One that answers the horizons alone, as what is served does: itself, or a copy where it answers more."""
        if self.fusion.answer.bias.shape[1] == HORIZONS:
            return self
        head = copy.deepcopy(self)
        for ensemble in (head.fusion, head.aside):
            if ensemble is not None:
                ensemble.answer.narrow(HORIZONS)
        return head

    @torch.no_grad()
    def rescale(self, means: Tensor, deviations: Tensor) -> None:
        """Turns logits of these means and deviations, [HORIZONS] each, into ones of mean 0 and deviation 1."""
        for ensemble in (self.fusion, self.aside):
            if ensemble is not None:
                ensemble.answer.weight.div_(deviations)
                ensemble.answer.bias.sub_(means).div_(deviations)
