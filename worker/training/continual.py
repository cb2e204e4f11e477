"""A trained model on newer data: which instants are new, what it must not forget, and when it stops.

An instant counts as known once its horizon has ended: what is new between two dates are the labels that became known
between them, for every horizon. A step mixes new instants with a replay of older ones. Two groups of visitors, chosen
by hash, teach nothing: one is watched while training, the other judges the result. Knows no files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.errors import IntentError
from worker.scoring import aggregates, encode, forward
from worker.scoring.batch import Batch, Floats
from worker.scoring.encode import Vocabulary
from worker.scoring.model import IntentModel
from worker.training import finetune, loop
from worker.training.adapt import METHODS, Adapted
from worker.training.examples import Examples, Places
from worker.training.finetune import Step
from worker.training.labels import HORIZONS_MS, Bools, Events, labels
from worker.training.optimiser import Optimiser
from worker.training.windows import Windows

GROUPS: Final = 8
WATCHED: Final = 0
JUDGING: Final = 1
"""One visitor in `GROUPS` each."""

FORGOTTEN: Final = 1e3
"""Taken off the score of a checkpoint that forgot too much: it is never the best."""

FULL_RATE: Final = 3e-4
"""Learning rate where all parameters learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What is chosen of an update. Times are UTC ms: labels known from `since_ms` up to and including `until_ms`."""

    since_ms: int
    until_ms: int
    method: str | None = None  # of `adapt.METHODS`; None: all parameters learn
    head: bool = True  # with a method: the fusion head learns as well
    windows: int = 20_480
    learning_rate: float | None = None  # None: what suits the method
    replay: float = 0.5
    """Share of older instants in a step."""
    anchor: float = 0.0
    """Pull to the weights that it began with (L2-SP, Li et al. 2018): over the run, a weight that nothing else moves
    goes back all but exp(-anchor) of its way."""
    distil: float = 0.0
    """Share of the former model's answers in the labels of older instants (learning without forgetting, Li 2016)."""
    bound: float = 0.02
    """Share by which the log loss on older instants may grow; a checkpoint beyond it is not taken."""
    checks: int = 5
    watched_windows: int = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """[n, horizons] each: what teaches, what is watched and what judges; `old` and `new` do not overlap."""

    new: Bools
    old: Bools
    watched_new: Bools
    watched_old: Bools
    judging: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """The best checkpoint, merged or, where its method does not merge, as it trains."""

    model: IntentModel
    history: loop.History
    trained_parameters: int


def known(events: Events, *, from_ms: int, until_ms: int) -> Bools:
    """[n, horizons] whether the label became known in (from, until]; none that looks into an outage does, nor any of
    an instant before the splits' start.
    """
    time = events.time_ms[:, None]
    ends = time + np.array(HORIZONS_MS)
    inside = events.instant & (events.time_ms >= events.splits.start)
    found = inside[:, None] & (ends > from_ms) & (ends <= until_ms)
    for begin, end in events.splits.outages:
        found &= (ends <= begin) | (time >= end)
    return np.asarray(found)


def split(events: Events, *, since_ms: int, until_ms: int) -> Split:
    """Raises `IntentError` where nothing became known in between, for any horizon."""
    group = _group(events.visitor)[:, None]
    new = known(events, from_ms=since_ms, until_ms=until_ms)
    old = known(events, from_ms=events.splits.start, until_ms=since_ms)
    teaching = (group != WATCHED) & (group != JUDGING)
    found = Split(
        new=new & teaching,
        old=old & teaching,
        watched_new=new & (group == WATCHED),
        watched_old=old & (group == WATCHED),
        judging=new & (group == JUDGING),
    )
    for name in ("new", "watched_new", "judging"):
        if not getattr(found, name).any():
            raise IntentError("no label became known between --since and --until: widen the range, or check its dates")
    return found


def fit(
    model: IntentModel,
    vocabulary: Vocabulary,
    events: Events,
    windows: Windows,
    update: Update,
    plan: finetune.Plan,
    *,
    report: Callable[[loop.Progress], None],
) -> Updated:
    """Trains a copy of the model. The plan gives seed, batch, precision, device; its data and its rates are not used.

    The checkpoint with the least log loss on the watched new instants is taken, of those that forget no more than the
    bound; the history's first entry is the model as it was, and it may stay the best.
    """
    parts = split(events, since_ms=update.since_ms, until_ms=update.until_ms)
    truth = labels(events)
    wanted: Floats = truth.astype(np.float32)
    examples = Examples.where(events, windows, y=wanted, counted=parts.new | parts.old)
    pools = [np.flatnonzero(part.any(axis=1)) for part in (parts.old, parts.new)]
    replayed = round(plan.batch_windows * update.replay) if len(pools[0]) else 0
    sizes = (replayed, plan.batch_windows - replayed)
    steps = max(1, update.windows // plan.batch_windows)
    device = torch.device(plan.device)
    torch.manual_seed(plan.seed)
    adapted = Adapted(model.to(device), update.method, steps=steps, head=update.head)
    network = adapted.network

    rate = update.learning_rate
    if rate is None:
        rate = FULL_RATE if update.method is None else METHODS[update.method].learning_rate
    optimiser = Optimiser(
        [(network, 1.0)], steps=steps, learning_rate=rate, weight_decay=plan.weight_decay, warm_up=0.1
    )
    anchors = [parameter.detach().clone() for parameter in adapted.trained] if update.anchor else []
    taken = 0

    def behind(*_: Any) -> None:
        nonlocal taken
        taken += 1
        adapted.stepped(taken)
        with torch.no_grad():
            for parameter, anchor in zip(adapted.trained, anchors, strict=False):
                parameter.lerp_(anchor, min(1.0, update.anchor / steps))

    optimiser.adamw.register_step_post_hook(behind)

    def gradients(step: int, rng: np.random.Generator) -> float:
        del step
        old, new = (rng.choice(pool, size) if size else pool[:0] for pool, size in zip(pools, sizes, strict=True))
        if len(old) and update.distil:
            former = 1 / (1 + np.exp(-padded_logits(model, vocabulary, windows, old, device=device)))
            wanted[old] = truth[old] + update.distil * (former - truth[old])
        places = np.concatenate([old, new])
        loss = Step(network, vocabulary, examples, places, plan, rng, head_alone=False).backward()
        if (penalty := adapted.penalty()) is not None:
            penalty.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    stage = loop.Stage(
        name=update.method or finetune.ALL,
        steps=steps,
        batch_windows=plan.batch_windows,
        seed=plan.seed,
        evaluations=update.checks,
        patience=update.checks,
    )
    check = Check(vocabulary, windows, truth, parts, update, device=device)
    history = loop.run(network, gradients, optimiser, stage, report=report, check=check)
    merges = update.method is None or METHODS[update.method].merges
    return Updated(
        model=(adapted.merged() if merges else network.eval()).to(finetune.CPU),
        history=history,
        trained_parameters=sum(parameter.numel() for parameter in adapted.trained),
    )


class Check:
    """What the loop asks of a checkpoint: log losses on the watched visitors' new and old instants, and the `score`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        windows: Windows,
        y: Bools,
        parts: Split,
        update: Update,
        *,
        device: torch.device,
    ) -> None:
        rng = np.random.default_rng(0)  # the same for every update: they are compared on it
        self.samples = {}
        for name, part in (("new", parts.watched_new), ("old", parts.watched_old)):
            drawn = np.sort(rng.permutation(np.flatnonzero(part.any(axis=1)))[: update.watched_windows // 2])
            if len(drawn):
                self.samples[name] = (drawn, part[drawn], y[drawn])
        self.vocabulary, self.windows, self.device = vocabulary, windows, device
        self.bound, self.before = update.bound, np.inf

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """`new`, `old`: log losses, means over horizons. First called on the model as it was."""
        found: dict[str, float] = {}
        for name, (places, member, y) in self.samples.items():
            logits = padded_logits(network, self.vocabulary, self.windows, places, device=self.device)
            losses = np.logaddexp(0.0, np.where(y, -logits, logits).astype(np.float64))
            found[name] = float(np.mean([losses[rows, at].mean() for at, rows in enumerate(member.T) if rows.any()]))
        old = found.get("old", 0.0)
        if np.isinf(self.before):
            self.before = old
        within = old <= self.before * (1 + self.bound)
        found["score"] = -found["new"] - (0.0 if within else FORGOTTEN)
        return found


def padded_logits(
    network: nn.Module, vocabulary: Vocabulary, windows: Windows, places: Places, *, device: torch.device
) -> Floats:
    """[len(places), HORIZONS] logits of a network that need not be a plain one: adapted, on its device."""
    network.eval()
    out = []
    for start in range(0, len(places), 4096):
        batch = Batch.of(windows.take(places[start : start + 4096]))
        tokens, contexts = encode.tokens(batch, vocabulary), encode.contexts(batch, vocabulary)
        sums = aggregates.aggregates(batch)
        logits = np.empty((len(batch), len(HORIZONS_MS)), np.float32)
        for chosen in forward.groups(batch.lengths, max_windows=512):
            arrays = (encode.padded(batch, tokens, chosen), contexts[chosen], sums[chosen])
            with torch.inference_mode():
                logits[chosen] = network(*(torch.from_numpy(array).to(device) for array in arrays)).float().cpu()
        out.append(logits)
    return np.concatenate(out)


def _group(visitor: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] in 0 .. `GROUPS` - 1, by a fixed mix of the visitor's number; another than that of `labels.held_out`."""
    mixed = (visitor.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)) >> np.uint64(33)
    return np.asarray(mixed % np.uint64(GROUPS)).astype(np.int64)
