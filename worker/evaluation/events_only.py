"""The rival that shows what the fusion is worth: the same BERT on the events alone, its own head, no sums, no context.

Trained as the bundle's network is (loop, loss, masks, forgetting, best checkpoint on validation), with sizes of its own
choice. Knows windows and labels; none of the bundle's weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertModel

from worker.scoring import encode, forward, model
from worker.scoring.batch import Batch, Floats
from worker.scoring.head import HORIZONS, Shape, positions
from worker.training import loop
from worker.training.labels import Bools
from worker.training.optimiser import Optimiser
from worker.training.validation import measured
from worker.training.windows import Windows
from worker.whole import written

Places = NDArray[np.int64]

FILE: Final = "events-only.safetensors"

_PREDICTED: Final = 8192  # windows at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Sizes and schedule. The defaults are those of the smallest bundle; fewer windows, since it overfits sooner."""

    shape: Shape = field(default_factory=lambda: Shape(layers=2, hidden=128, heads=4))
    windows: int = 81_920
    batch_windows: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    forget: float = 0.2
    checkpoints: int = 5
    validation_windows: int = 16_000
    seed: int = 1


class EventsOnly(nn.Module):
    """Windows' tokens to logits: `BertModel` over summed field embeddings, a linear head on its first position."""

    def __init__(self, shape: Shape, rows: int) -> None:
        super().__init__()
        self.events = nn.EmbeddingBag(rows, shape.hidden, mode="sum", padding_idx=encode.NOTHING)
        self.first = nn.Parameter(torch.empty(shape.hidden))
        self.bert = BertModel(model.config(shape))  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.out = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.hidden, HORIZONS))
        for table in (self.events.weight, self.first):
            nn.init.normal_(table, std=0.05)
        with torch.no_grad():
            self.events.weight[encode.NOTHING].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """[b, L, FIELDS] of `encode.padded` -> [b, HORIZONS] logits."""
        inputs, mask = positions(self.events, self.first, tokens)
        out: Tensor = self.out(self.bert(inputs_embeds=inputs, attention_mask=mask).pooler_output)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Instants to learn from, or to choose a checkpoint on."""

    places: Places  # [n]
    member: Bools  # [n, horizons]
    y: Bools  # [n, horizons]


def logits(
    windows: Windows,
    places: Places,
    vocabulary: encode.Vocabulary,
    *,
    train: Rows,
    validation: Rows,
    folder: Path,
    recipe: Recipe,
    device: str,
    report: Callable[[int], None],
) -> Floats:
    """[len(places), HORIZONS] of the network that a former call left in `folder`, or else of one trained now.

    Training takes some four minutes on two cores with the default recipe; `report` hears of the windows drawn so far.
    """
    torch.manual_seed(recipe.seed)
    network = EventsOnly(recipe.shape, vocabulary.rows).to(device)
    path = folder / FILE
    if path.exists():
        network.load_state_dict(safetensors.torch.load(path.read_bytes()))
    else:
        _train(network, windows, vocabulary, train=train, validation=validation, recipe=recipe, report=report)
        folder.mkdir(parents=True, exist_ok=True)
        with written(path) as beside:
            beside.write_bytes(safetensors.torch.save({name: one.cpu() for name, one in network.state_dict().items()}))
    return _predict(network, windows, places, vocabulary)


def _train(
    network: EventsOnly,
    windows: Windows,
    vocabulary: encode.Vocabulary,
    *,
    train: Rows,
    validation: Rows,
    recipe: Recipe,
    report: Callable[[int], None],
) -> None:
    """To the best of its checkpoints by the mean of AUC + AP over the horizons."""
    steps = max(1, recipe.windows // recipe.batch_windows)
    optimiser = Optimiser(
        [(network, 1.0)],
        steps=steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warm_up=recipe.warm_up,
    )
    judged = _drawn(validation, recipe.validation_windows, np.random.default_rng(recipe.seed))

    def gradients(_: int, rng: np.random.Generator) -> float:
        drawn = rng.choice(len(train.places), recipe.batch_windows)
        batch = Batch.of(windows.take(train.places[drawn]))
        tokens = encode.tokens(batch, vocabulary, forgotten=rng.random(batch.events) < recipe.forget)
        share, total = 1.0 / max(1, int(train.member[drawn].sum())), 0.0
        for chosen in forward.groups(batch.lengths, max_windows=recipe.batch_windows):
            out = network(_grid(network, batch, tokens, chosen))
            target, counts = (torch.from_numpy(of[drawn[chosen]]).to(out.device) for of in (train.y, train.member))
            losses = nn.functional.binary_cross_entropy_with_logits(out, target.float(), reduction="none")
            loss = (losses * counts).sum() * share
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += float(loss.detach())
        return total

    loop.run(
        network,
        gradients,
        optimiser,
        loop.Stage(
            name="events only",
            steps=steps,
            batch_windows=recipe.batch_windows,
            seed=recipe.seed,
            evaluations=recipe.checkpoints,
            patience=recipe.checkpoints,
        ),
        report=lambda progress: report(progress.windows),
        check=lambda one: measured(_predict(one, windows, judged.places, vocabulary), judged.y, judged.member),
    )


def _drawn(rows: Rows, most: int, rng: np.random.Generator) -> Rows:
    """Some of them."""
    drawn = np.sort(rng.permutation(len(rows.places))[:most])
    return Rows(places=rows.places[drawn], member=rows.member[drawn], y=rows.y[drawn])


def _predict(network: EventsOnly, windows: Windows, places: Places, vocabulary: encode.Vocabulary) -> Floats:
    network.eval()
    out = np.empty((len(places), HORIZONS), np.float32)
    with torch.inference_mode():
        for start in range(0, len(places), _PREDICTED):
            batch = Batch.of(windows.take(places[start : start + _PREDICTED]))
            tokens = encode.tokens(batch, vocabulary)
            for chosen in forward.groups(batch.lengths, max_windows=512):
                out[start + chosen] = network(_grid(network, batch, tokens, chosen)).cpu().numpy()
    return out


def _grid(network: EventsOnly, batch: Batch, tokens: NDArray[np.int32], chosen: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(encode.padded(batch, tokens, chosen)).to(network.first.device)
