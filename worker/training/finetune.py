"""Fits the network to the labels: all horizons at once, early stopping on the validation slice. Knows no files.

A horizon's loss counts only where the instant is in its training slice (`labels.member`). Each step draws windows at
random and runs them in groups of like length, as serving does; their gradients add up to one step. Items and pages
are forgotten and context left out at random, so that the model learns to do without.

The head may start alone, on aggregates and context: that costs a small part of a pass through the BERT, which is left
to add what they lack. A refit repeats a run on later data and chooses nothing.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
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
from worker.training.optimiser import Optimiser
from worker.training.windows import Windows

Places = NDArray[np.int64]

CPU: Final = torch.device("cpu")
HEAD: Final = "the head alone"
ALL: Final = "all"
"""Stages of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is chosen of a run. The same plan, data and number of threads give the same model."""

    seed: int = 1
    head_windows: int = 0
    windows: int = 160_000
    batch_windows: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    forget: float = 0.2
    even: float = 0.0
    """0: every instant is as likely to be drawn; 1: every session, however many events it has."""
    evaluations: int = 10
    patience: int = 6
    validation_windows: int = 16_000
    refit: bool = False
    bf16: bool = True
    device: str = "cpu"
    shape: model.Shape = field(default_factory=model.Shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a stage of a run is, after each step; `validation` after an evaluation."""

    stage: str
    windows: int
    of_windows: int
    loss: float
    seconds: float
    validation: dict[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The best checkpoint on validation, and how it went; of a refit, the last one and no history."""

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
    refit: int | None = None,
) -> Trained:
    """Trains from scratch; about 1,000 windows/s on two CPU cores with the default shape.

    `targets` [n, horizons] stand in for the true labels: shuffled, they must leave nothing to learn. `refit`, windows
    at which a run of this plan was best: the same again on the refit slice, as far as there.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    y = labels(events) if targets is None else targets
    counted = member(events, "train" if refit is None else "refit")
    pool = np.flatnonzero(counted.any(axis=1))
    vocabulary = learn_vocabulary(windows, rng.permutation(pool)[:200_000])
    network = model.build(plan.shape, vocabulary)
    standardise(network, windows, rng.permutation(pool)[:50_000])
    network.to(torch.device(plan.device))
    started = time.monotonic()
    draw = _draw(pool, events.session[pool], plan, rng)

    def run(stage: str, of_windows: int, *, trained: nn.Module, check: Validation | None) -> Iterator[Progress]:
        """One stage, step by step, to its end."""
        steps = max(1, of_windows // plan.batch_windows)
        every = max(1, steps // plan.evaluations)
        optimiser = Optimiser(
            trained, steps=steps, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay, warm_up=plan.warm_up
        )
        for step in range(1, steps + 1):
            places = next(draw)
            network.train()
            batch = (windows.take(places), y[places], counted[places])
            loss = _gradients(network, vocabulary, *batch, plan=plan, rng=rng, head_alone=stage == HEAD)
            optimiser.step()
            checked = check is not None and (step % every == 0 or step == steps)
            yield Progress(
                stage=stage,
                windows=step * plan.batch_windows,
                of_windows=steps * plan.batch_windows,
                loss=loss,
                seconds=time.monotonic() - started,
                validation=check(network, vocabulary) if check is not None and checked else None,
            )

    if plan.head_windows:
        for progress in run(HEAD, plan.head_windows, trained=network.head, check=None):
            report(progress)
    check = Validation(events, windows, plan, y=y) if refit is None else None
    best, best_score, since_best = copy.deepcopy(network.state_dict()), -math.inf, 0
    history: list[dict[str, float]] = []
    for progress in run(ALL, plan.windows, trained=network, check=check):
        report(progress)
        if refit is not None and progress.windows >= refit:
            break
        if (found := progress.validation) is not None:
            history.append({"windows": progress.windows, "loss": progress.loss, **found})
            if found["score"] > best_score:
                best, best_score, since_best = copy.deepcopy(network.state_dict()), found["score"], 0
            else:
                since_best += 1
            if since_best >= plan.patience:
                break
    if check is not None:
        network.load_state_dict(best)
    return Trained(model=network.to(CPU).eval(), vocabulary=vocabulary, history=history)


def _draw(pool: Places, session: NDArray[np.int64], plan: Plan, rng: np.random.Generator) -> Iterator[Places]:
    """Batches of places without end: all of the pool in random order, then again; or weighted, with replacement.

    The windows of one session are near copies of one another: a session of 300 events has not 300 times as much to say.
    """
    size = plan.batch_windows
    _, which, count = np.unique(session, return_inverse=True, return_counts=True)
    bounds = np.cumsum(count[which] ** -plan.even)
    while True:
        if plan.even:
            yield pool[np.searchsorted(bounds, rng.random(size) * bounds[-1])]
        else:
            order = rng.permutation(pool)
            yield from (order[at : at + size] for at in range(0, max(1, len(order) - size + 1), size))


def learn_vocabulary(windows: Windows, places: Places, *, least: int = 20) -> encode.Vocabulary:
    """Of the training slice alone."""
    return encode.learn([Batch.of(windows.take(part)) for part in _parts(places)], least=least)


def standardise(network: model.IntentModel, windows: Windows, places: Places) -> None:
    """Sets the head's means, deviations and ramps of the aggregates; one that does not vary is left as it is."""
    sums = np.concatenate([aggregates.aggregates(Batch.of(windows.take(part))) for part in _parts(places)])
    deviation = sums.std(axis=0)
    network.head.means.copy_(torch.from_numpy(sums.mean(axis=0)))
    network.head.deviations.copy_(torch.from_numpy(np.where(deviation > 1e-4, deviation, 1.0).astype(np.float32)))
    if network.head.ramps is not None:
        network.head.ramps.fit(network.head.standard(torch.from_numpy(sums)))


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


def _gradients(
    network: model.IntentModel,
    vocabulary: encode.Vocabulary,
    windows: list[bytes],
    y: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    *,
    plan: Plan,
    rng: np.random.Generator,
    head_alone: bool,
) -> float:
    """Of one batch, added to the parameters'; its mean loss. Each member of the head has a loss of its own."""
    batch = Batch.of(windows)
    device = torch.device(plan.device)
    contexts = encode.contexts(batch, vocabulary)
    contexts[rng.random(contexts.shape) < plan.forget / 2] = 1
    sums = aggregates.aggregates(batch)
    total = 0.0
    share = 1.0 / max(1, int(counted.sum()))
    if head_alone:
        tokens = np.empty((0, len(encode.FIELDS)), np.int32)
        parts: Iterable[Places] = [np.arange(len(batch))]
    else:
        tokens = encode.tokens(batch, vocabulary, forgotten=rng.random(batch.events) < plan.forget)
        parts = forward.groups(batch.lengths, max_windows=plan.batch_windows)
    for chosen in parts:
        arrays = (contexts[chosen], sums[chosen], y[chosen], counted[chosen])
        context, side, target, counts = (torch.from_numpy(array).to(device) for array in arrays)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            if head_alone:
                nothing = torch.zeros(len(chosen), plan.shape.hidden, device=device)
                out = network.head.each(nothing, context, side)
            else:
                grid = torch.from_numpy(encode.padded(batch, tokens, chosen)).to(device)
                out = network.each(grid, context, side)
        out = out.float()  # [b, members, horizons]
        wanted = target.float()[:, None].expand_as(out)
        losses = nn.functional.binary_cross_entropy_with_logits(out, wanted, reduction="none").mean(dim=1)
        loss = (losses * counts).sum() * share
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += float(loss.detach())
    return total


def _parts(places: Places, *, size: int = 20_000) -> list[Places]:
    return [places[start : start + size] for start in range(0, len(places), size)]
