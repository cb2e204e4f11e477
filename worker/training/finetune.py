"""Fits the network to the labels: all horizons at once, early stopping on the validation slice. Knows no files.

A horizon's loss counts only where the instant is in its training slice (`labels.member`). Each step draws windows at
random and runs them in groups of like length, as serving does; their gradients add up to one step. Items and pages
are forgotten and context left out at random, so that the model learns to do without.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.scoring import aggregates, encode, forward, model
from worker.scoring.batch import Batch, Floats
from worker.training.labels import Events, labels, member
from worker.training.metrics import measure
from worker.training.windows import Windows

Places = NDArray[np.int64]

CPU: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is chosen of a run. The same plan, data and number of threads give the same model."""

    seed: int = 1
    windows: int = 160_000
    batch_windows: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    forget: float = 0.2
    evaluations: int = 10
    patience: int = 6
    validation_windows: int = 16_000
    bf16: bool = True
    device: str = "cpu"
    shape: model.Shape = field(default_factory=model.Shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is, after each step; `validation` after an evaluation."""

    windows: int
    of_windows: int
    loss: float
    seconds: float
    validation: dict[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The best checkpoint on validation, and how it went."""

    model: model.IntentModel
    vocabulary: encode.Vocabulary
    history: list[dict[str, float]]


def finetune(
    events: Events,
    windows: Windows,
    plan: Plan,
    *,
    report: Callable[[Progress], None],
    targets: NDArray[np.bool_] | None = None,
) -> Trained:
    """Trains from scratch; about 1,000 windows/s on two CPU cores with the default shape.

    `targets` [n, horizons] stand in for the true labels: shuffled, they must leave nothing to learn.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    y = labels(events) if targets is None else targets
    in_train = member(events, "train")
    pool = np.flatnonzero(in_train.any(axis=1))
    vocabulary = learn_vocabulary(windows, rng.permutation(pool)[:200_000])
    network = model.build(plan.shape, vocabulary)
    standardise(network, windows, rng.permutation(pool)[:50_000])
    device = torch.device(plan.device)
    network.to(device)
    optimiser = torch.optim.AdamW(_decayed(network, plan.weight_decay), lr=plan.learning_rate)
    steps = max(1, plan.windows // plan.batch_windows)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps, plan.warm_up))
    check = Validation(events, windows, plan, y=y)
    every = max(1, steps // plan.evaluations)
    best, best_score, since_best = copy.deepcopy(network.state_dict()), -math.inf, 0
    history: list[dict[str, float]] = []
    started = time.monotonic()
    order, at = rng.permutation(pool), 0
    for step in range(1, steps + 1):
        if at + plan.batch_windows > len(order):
            order, at = rng.permutation(pool), 0
        places = order[at : at + plan.batch_windows]
        at += plan.batch_windows
        network.train()
        loss = _step(network, vocabulary, windows.take(places), y[places], in_train[places], plan, rng)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        scores = None
        if step % every == 0 or step == steps:
            scores = check(network, vocabulary)
            history.append({"windows": step * plan.batch_windows, "loss": loss, **scores})
            if scores["score"] > best_score:
                best, best_score, since_best = copy.deepcopy(network.state_dict()), scores["score"], 0
            else:
                since_best += 1
        report(
            Progress(
                windows=step * plan.batch_windows,
                of_windows=steps * plan.batch_windows,
                loss=loss,
                seconds=time.monotonic() - started,
                validation=scores,
            )
        )
        if since_best >= plan.patience:
            break
    network.load_state_dict(best)
    return Trained(model=network.to(CPU).eval(), vocabulary=vocabulary, history=history)


def learn_vocabulary(windows: Windows, places: Places, *, least: int = 20) -> encode.Vocabulary:
    """Of the training slice alone."""
    return encode.learn([Batch.of(windows.take(part)) for part in _parts(places)], least=least)


def standardise(network: model.IntentModel, windows: Windows, places: Places) -> None:
    """Sets the head's means and deviations of the aggregates; one that does not vary is left as it is."""
    sums = np.concatenate([aggregates.aggregates(Batch.of(windows.take(part))) for part in _parts(places)])
    deviation = sums.std(axis=0)
    network.head.means.copy_(torch.from_numpy(sums.mean(axis=0)))
    network.head.deviations.copy_(torch.from_numpy(np.where(deviation > 1e-4, deviation, 1.0).astype(np.float32)))


def predict(
    network: model.IntentModel, vocabulary: encode.Vocabulary, windows: Windows, places: Places, *, device: str = "cpu"
) -> Floats:
    """[len(places), HORIZONS] logits, by the code that serves."""
    network.eval()
    parts = [
        forward.logits(network, vocabulary, Batch.of(windows.take(part)), device=torch.device(device))
        for part in _parts(places, size=8192)
    ]
    return np.concatenate(parts)


class Validation:
    """A fixed sample of the validation slices; its score is the mean over horizons of AUC + AP, more being better."""

    def __init__(self, events: Events, windows: Windows, plan: Plan, *, y: NDArray[np.bool_]) -> None:
        inside = member(events, "validation")
        rng = np.random.default_rng(0)  # the same for every plan: runs are compared on it
        drawn = [
            rng.permutation(np.flatnonzero(column))[: plan.validation_windows // 2]
            for column in (inside[:, 1], inside[:, 2])
        ]
        self.places = np.unique(np.concatenate(drawn))
        self.member, self.y = inside[self.places], y[self.places]
        self.windows, self.device = windows, plan.device

    def __call__(self, network: model.IntentModel, vocabulary: encode.Vocabulary) -> dict[str, float]:
        """AUC, AP and log loss by horizon, and the `score`."""
        out = predict(network, vocabulary, self.windows, self.places, device=self.device)
        result: dict[str, float] = {}
        for at, name in enumerate(("30m", "24h", "7d")):
            rows = self.member[:, at]
            found = measure(1 / (1 + np.exp(-out[rows, at].astype(np.float64))), self.y[rows, at])
            result |= {f"{metric}_{name}": found[metric] for metric in ("auc", "ap", "log_loss")}
        result["score"] = (
            sum(result[f"{metric}_{name}"] for metric in ("auc", "ap") for name in ("30m", "24h", "7d")) / 3
        )
        return result


def _step(
    network: model.IntentModel,
    vocabulary: encode.Vocabulary,
    windows: list[bytes],
    y: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    plan: Plan,
    rng: np.random.Generator,
) -> float:
    """Gradients of one batch. Returns its mean loss."""
    batch = Batch.of(windows)
    device = torch.device(plan.device)
    tokens = encode.tokens(batch, vocabulary, forgotten=rng.random(batch.events) < plan.forget)
    contexts = encode.contexts(batch, vocabulary)
    contexts[rng.random(contexts.shape) < plan.forget / 2] = 1
    sums = aggregates.aggregates(batch)
    total = 0.0
    share = 1.0 / max(1, int(counted.sum()))
    for chosen in forward.groups(batch.lengths, max_windows=plan.batch_windows):
        arrays = (encode.padded(batch, tokens, chosen), contexts[chosen], sums[chosen], y[chosen], counted[chosen])
        grid, context, side, target, counts = (torch.from_numpy(array).to(device) for array in arrays)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            out = network(grid, context, side)
        losses = nn.functional.binary_cross_entropy_with_logits(out.float(), target.float(), reduction="none")
        loss = (losses * counts).sum() * share
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += float(loss.detach())
    return total


def _rate(step: int, steps: int, warm_up: float) -> float:
    """Linear warm-up, cosine decay to nothing."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _decayed(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight matrices decay; biases, norms and embeddings do not."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    matrices = [p for p in network.parameters() if p.ndim == 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _parts(places: Places, *, size: int = 20_000) -> list[Places]:
    return [places[start : start + size] for start in range(0, len(places), size)]
