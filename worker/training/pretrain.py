"""Pretraining without labels: the BERT guesses the fields of events that are hidden from it (Devlin et al. 2019).

Which events go together is in every session, bought or not; a purchase label is in one of fifteen. The newest event is
hidden more often than the others: guessing it is predicting the next event from the ones before. Windows are those of
the training instants, one a session. Knows no labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.scoring import encode, forward
from worker.scoring.batch import Batch
from worker.scoring.model import IntentModel
from worker.training import loop
from worker.training.checkpoints import Checkpoints
from worker.training.examples import Examples
from worker.training.loop import History, Progress
from worker.training.optimiser import Optimiser

GUESSED: Final = {
    "kind": ("kind", "item"),
    "item": ("item", "category"),
    "category": ("category", "page"),
    "page": ("page", "price"),
    "price": ("price", "gap"),
    "gap": ("gap", "age"),
}
"""The fields, and where in `Vocabulary.bases` their embedding rows begin and end. An event's age is left to be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is chosen of pretraining."""

    seed: int = 1
    windows: int = 200_000
    batch_windows: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.05
    hidden: float = 0.15
    """Share of the events that are hidden."""
    newest: float = 0.3
    """Share of the windows whose newest event is hidden beside."""
    bf16: bool = True
    device: str = "cpu"


class MaskedEvents(nn.Module):
    """A network's BERT and embeddings, and behind them a guess of each field."""

    def __init__(self, network: IntentModel, vocabulary: encode.Vocabulary) -> None:
        super().__init__()
        width = network.bert.config.hidden_size
        bases = vocabulary.bases
        self.network = network
        self.columns = [encode.FIELDS.index(field) for field in GUESSED]
        self.starts = [bases[start] for start, _ in GUESSED.values()]
        self.classes = [bases[end] - bases[start] + 1 for start, end in GUESSED.values()]
        self.mask = nn.Parameter(torch.randn(width) * 0.05)
        self.mixed = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.guess = nn.Linear(width, sum(self.classes))

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """`encode.padded` windows [b, L, FIELDS] and [b, L], which events are hidden; M are.

        Returns [M, fields]: the surprise at each field of each hidden event, -ln of the probability of the true value.
        """
        inputs, mask = self.network.head.positions(tokens)
        first, events = inputs[:, :1], inputs[:, 1:]
        events = torch.where(hidden[:, :, None], self.mask.to(events.dtype), events)
        out = self.network.bert(inputs_embeds=torch.cat([first, events], dim=1), attention_mask=mask).last_hidden_state
        logits = self.guess(self.mixed(out[:, 1:][hidden])).float()  # [M, classes of all fields]
        truth = tokens[hidden]  # [M, FIELDS]
        return torch.stack(
            [
                functional.cross_entropy(part, self._class(truth[:, column], start), reduction="none")
                for part, column, start in zip(
                    logits.split(self.classes, dim=1), self.columns, self.starts, strict=True
                )
            ],
            dim=1,
        )

    @staticmethod
    def _class(rows: Tensor, start: int) -> Tensor:
        """Embedding rows of a field as classes: 0 for nothing, then its rows in order."""
        return torch.where(rows == encode.NOTHING, 0, rows.long() - start + 1)


def pretrain(
    network: IntentModel,
    vocabulary: encode.Vocabulary,
    examples: Examples,
    plan: Plan,
    *,
    stage: str,
    report: Callable[[Progress], None],
    keep: Checkpoints | None = None,
) -> tuple[MaskedEvents, History]:
    """Trains the network's BERT and event embeddings in place; the guesser, of which they are a part, is returned.

    Windows are drawn from the examples' sessions. The loss that is reported is the mean over fields.
    """
    device = torch.device(plan.device)
    loop.randomness(plan.seed, stage, 0)  # for the weights that are made here
    guesser = MaskedEvents(network, vocabulary).to(device)
    steps = max(1, plan.windows // plan.batch_windows)
    draw = loop.Draw(examples.sessions(), plan.batch_windows, seed=plan.seed)
    optimiser = Optimiser(
        [(guesser, 1.0)],
        steps=steps,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        warm_up=plan.warm_up,
    )

    def gradients(step: int, rng: np.random.Generator) -> float:
        batch = Batch.of(examples.windows.take(draw(step, rng)))
        tokens = encode.tokens(batch, vocabulary)
        chosen = hidden(batch, rng, share=plan.hidden, newest=plan.newest)
        total = 0.0
        for group in forward.groups(batch.lengths, max_windows=plan.batch_windows):
            grid = encode.padded(batch, tokens, group)
            which = chosen[np.maximum(batch.newest[group][:, None] - np.arange(grid.shape[1]), 0)]
            which &= grid[:, :, 0] != encode.NOTHING
            if not which.any():
                continue
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
                surprise = guesser(torch.from_numpy(grid).to(device), torch.from_numpy(which).to(device))
            loss = surprise.mean(dim=1).sum() / max(1, int(chosen.sum()))
            loss.backward()
            total += float(loss.detach())
        return total

    run = loop.Stage(name=stage, steps=steps, batch_windows=plan.batch_windows, seed=plan.seed)
    return guesser, loop.run(guesser, gradients, optimiser, run, report=report, keep=keep)


def hidden(batch: Batch, rng: np.random.Generator, *, share: float, newest: float) -> np.ndarray:
    """[N] which rows are hidden: so many of all at random, and so many of the windows' newest. Lone events stay."""
    chosen = rng.random(batch.events) < share
    chosen[batch.newest[rng.random(len(batch)) < newest]] = True
    return chosen & np.repeat(batch.lengths > 1, batch.lengths)
