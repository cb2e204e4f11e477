"""Fits the network to the labels: all horizons at once, early stopping on the validation slice. Knows no files.

A horizon's loss counts only where the instant is in its slice (`labels.member`). Each step draws windows at random and
runs them in groups of like length, as serving does; their gradients add up to one step. Items and pages are forgotten
and context left out at random, so that the model learns to do without.

A run has stages. A teacher may soften the labels. The BERT may be pretrained without any. The head may start alone, on
aggregates and context, a member after the other, each in an order of its own: that costs a small part of a pass
through the BERT, which is left to add what they lack, at a rate of its own. Members that stand aside of the BERT then
stay as they are: what it makes the others overfit, they do not. A refit repeats a run on later data and chooses
nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch

from worker.scoring import aggregates, encode, forward, model
from worker.scoring.batch import Batch
from worker.scoring.head import HORIZONS, Head, Shape
from worker.training import augment, loop, objective, pretrain, teacher
from worker.training.checkpoints import Checkpoints
from worker.training.examples import Bools, Examples, Places, fresh
from worker.training.examples import predict as predict  # noqa: PLC0414 - whoever has a model asks for it here
from worker.training.labels import Events
from worker.training.loop import History, Progress
from worker.training.optimiser import Optimiser
from worker.training.validation import Validation
from worker.training.windows import Windows

CPU: Final = torch.device("cpu")
PRETRAINING: Final = "masked events"
HEAD: Final = "the head alone"
ALL: Final = "all"
"""Stages of a run; a refit's are named behind `REFIT`."""
REFIT: Final = "refit, "


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is chosen of a run. The same plan, data and number of threads give the same model."""

    seed: int = 1
    teacher: float = 0.0
    """Share of each label that is the teacher's answer."""
    pretrain_windows: int = 0
    head_windows: int = 0
    """Of each member."""
    windows: int = 160_000
    batch_windows: int = 512
    learning_rate: float = 1e-3
    settled_rate: float = 1.0
    """The fusion's learning rate once it has had a stage of its own, as a multiple."""
    weight_decay: float = 0.05
    warm_up: float = 0.05
    forget: float = 0.2
    auxiliary: float = 0.0
    """Weight of each auxiliary label beside a horizon's; 0: none is learnt."""
    even: float = 0.0
    """0: every instant is as likely to be drawn; 1: every session, however many events it has."""
    half_life_days: float = 0.0
    """After which an instant is drawn half as often as the newest; 0: as often, however old. See `Examples.weights`."""
    crop: float = 0.0
    hide: float = 0.0
    stretch: float = 0.0
    """See `augment`."""
    focal: float = 0.0
    positive: float = 1.0
    adversary: float = 0.0
    """See `objective`."""
    average: float = 0.0
    """Decay of the weights' moving average; 0: none."""
    evaluations: int = 10
    patience: int = 6
    validation_windows: int = 16_000
    refit: bool = False
    bf16: bool = True
    device: str = "cpu"
    shape: Shape = field(default_factory=Shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The best checkpoint on validation, and how the last stage went; of a refit, the last one and no history."""

    model: model.IntentModel
    vocabulary: encode.Vocabulary
    history: History


def finetune(
    events: Events,
    windows: Windows,
    plan: Plan,
    *,
    report: Callable[[Progress], None],
    targets: Bools | None = None,
    refit: int | None = None,
    keep: Checkpoints | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Trains from scratch; about 1,000 windows/s on two CPU cores with the default shape.

    `targets` [n, horizons] stand in for the true labels: shuffled, they must leave nothing to learn. `refit`, windows
    at which a run of this plan was best: the same again on the refit slice, as far as there. With `keep`, a run that
    was interrupted goes on at its last checkpoint.
    """
    examples = Examples.of(events, windows, "train" if refit is None else "refit", targets=targets)
    if plan.auxiliary:
        examples = examples.taught_beside(events)
    network, vocabulary = fresh(examples, plan.shape, seed=plan.seed)
    network.to(torch.device(plan.device))
    prefix = "" if refit is None else REFIT
    if plan.teacher:
        stage = prefix + teacher.STAGE
        examples = teacher.softened(examples, vocabulary, share=plan.teacher, stage=stage, keep=keep, say=say)
    if plan.pretrain_windows:
        pretrain.pretrain(
            network,
            vocabulary,
            examples,
            pretrain.Plan(
                seed=plan.seed,
                windows=plan.pretrain_windows,
                learning_rate=plan.learning_rate,
                bf16=plan.bf16,
                device=plan.device,
            ),
            stage=prefix + PRETRAINING,
            report=report,
            keep=keep,
        )
    if plan.head_windows:
        _heads(network, vocabulary, examples, plan, stage=prefix + HEAD, report=report, keep=keep)
        if network.head.aside is not None:
            network.head.aside.requires_grad_(requires_grad=False)
            network.head.contexts.requires_grad_(requires_grad=False)  # which they see with
    check = None
    if refit is None:
        chosen_on = Examples.of(events, windows, "choice", targets=targets)
        check = Validation(chosen_on, vocabulary, windows=plan.validation_windows, device=plan.device)
    history: History = []
    if refit != 0:
        history = fit(
            network,
            vocabulary,
            examples,
            plan,
            stage=prefix + ALL,
            windows=plan.windows,
            report=report,
            check=check,
            stop=refit,
            keep=keep,
        )
    network.head = network.head.narrowed()
    return Trained(model=network.to(CPU).eval(), vocabulary=vocabulary, history=history)


def _heads(
    network: model.IntentModel,
    vocabulary: encode.Vocabulary,
    examples: Examples,
    plan: Plan,
    *,
    stage: str,
    report: Callable[[Progress], None],
    keep: Checkpoints | None,
) -> None:
    """Trains the head alone, in place; members that are apart one by one, each from a seed of its own."""

    def alone(network: model.IntentModel, plan: Plan, stage: str) -> None:
        network.head.mute()
        fit(
            network,
            vocabulary,
            examples,
            plan,
            stage=stage,
            windows=plan.head_windows,
            head_alone=True,
            report=report,
            keep=keep,
        )

    if not plan.shape.apart:
        alone(network, plan, stage)
        return
    shape = replace(plan.shape, members=1, aside=0)
    for place in range(network.head.tables):
        torch.manual_seed(plan.seed + place)
        head = Head(
            shape, event_rows=vocabulary.rows, context_rows=vocabulary.context_sizes(), targets=examples.y.shape[1]
        )
        head.means.copy_(network.head.means)
        head.deviations.copy_(network.head.deviations)
        member = model.IntentModel(network.bert, head.to(torch.device(plan.device)))
        alone(member, replace(plan, seed=plan.seed + place, shape=shape), f"{stage}, {place + 1}")
        network.head.seat(place, member.head)


def fit(
    network: model.IntentModel,
    vocabulary: encode.Vocabulary,
    examples: Examples,
    plan: Plan,
    *,
    stage: str,
    windows: int,
    report: Callable[[Progress], None],
    head_alone: bool = False,
    check: Validation | None = None,
    stop: int | None = None,
    keep: Checkpoints | None = None,
) -> History:
    """Trains a network in place, so many windows long, to its best checkpoint by `check`, else to the last.

    Only parameters that require a gradient are trained; with `head_alone` only the head's, and the BERT is not run. The
    stage's name decides what is drawn at random, and where a checkpoint is kept. `stop` ends after so many windows of
    the whole schedule. The network is on the plan's device.
    """
    steps = max(1, windows // plan.batch_windows)
    settled = plan.settled_rate if plan.head_windows else 1.0
    optimiser = Optimiser(
        [(network.head, 1.0)] if head_alone else [(network.head.fusion, settled), (network, 1.0)],
        steps=steps,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        warm_up=plan.warm_up,
    )
    weights = examples.weights(even=plan.even, half_life_days=plan.half_life_days)
    draw = loop.Draw(examples.pool, plan.batch_windows, seed=plan.seed, weights=weights)
    tables = [network.head.events.weight, network.head.contexts.weight]

    def gradients(step: int, rng: np.random.Generator) -> float:
        given = Step(network, vocabulary, examples, draw(step, rng), plan, rng, head_alone=head_alone)
        if plan.adversary:
            return objective.adversarial(given.backward, tables, radius=plan.adversary)
        return given.backward()

    return loop.run(
        network,
        gradients,
        optimiser,
        loop.Stage(
            name=stage,
            steps=steps,
            batch_windows=plan.batch_windows,
            seed=plan.seed,
            evaluations=plan.evaluations,
            patience=plan.patience,
            average=plan.average,
            stop=None if stop is None else max(1, stop // plan.batch_windows),
        ),
        report=report,
        check=check,
        keep=keep,
    )


class Step:
    """One batch as tensors, augmented once: an adversary sees what the first pass saw."""

    def __init__(
        self,
        network: model.IntentModel,
        vocabulary: encode.Vocabulary,
        examples: Examples,
        places: Places,
        plan: Plan,
        rng: np.random.Generator,
        *,
        head_alone: bool,
    ) -> None:
        self.network, self.plan, self.head_alone = network, plan, head_alone
        batch = Batch.of(examples.windows.take(places))
        if plan.crop:
            batch = augment.crop(batch, rng, share=plan.crop)
        if plan.stretch:
            batch = augment.stretch(batch, rng, deviation=plan.stretch)
        self.batch = batch
        self.contexts = encode.contexts(batch, vocabulary)
        self.contexts[rng.random(self.contexts.shape) < plan.forget / 2] = 1
        self.sums = aggregates.aggregates(batch)
        self.y, self.counted = examples.y[places], examples.counted[places]
        if not head_alone:
            tokens = encode.tokens(batch, vocabulary, forgotten=rng.random(batch.events) < plan.forget)
            self.tokens = augment.hide(tokens, rng, share=plan.hide) if plan.hide else tokens

    def backward(self) -> float:
        """Adds the gradients to the parameters'; the mean loss."""
        plan, device = self.plan, torch.device(self.plan.device)
        weights = np.full(self.y.shape[1], plan.auxiliary, np.float32)
        weights[:HORIZONS] = 1.0
        weights /= max(1, int(self.counted[:, :HORIZONS].sum()))
        total = 0.0
        for chosen in self._groups():
            arrays = (self.contexts[chosen], self.sums[chosen], self.y[chosen], self.counted[chosen] * weights)
            context, side, target, weight = (torch.from_numpy(array).to(device) for array in arrays)
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
                if self.head_alone:
                    nothing = torch.zeros(len(chosen), plan.shape.hidden, device=device)
                    out = self.network.head.each(nothing, context, side)
                else:
                    grid = torch.from_numpy(encode.padded(self.batch, self.tokens, chosen)).to(device)
                    out = self.network.each(grid, context, side)
            each = objective.losses(out.float(), target.float(), focal=plan.focal, positive=plan.positive)
            loss = (each * weight).sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += float(loss.detach())
        return total

    def _groups(self) -> Iterable[Places]:
        """Places within the batch that go through the network together."""
        if self.head_alone:
            return [np.arange(len(self.batch))]
        return forward.groups(self.batch.lengths, max_windows=self.plan.batch_windows)
