"""A foreign shop made of a part of the sample, and what a model learns of it: from scratch, and from another shop's.

Owns the study that `python -m loadtest transfer` tells of. A part of the real sample's visitors becomes the foreign
shop: chosen by the channel of their first visit, so that the mix differs, with items, categories and pages renamed by a
keyed hash. A donor learns from the other visitors only; shares of the foreign shop's training visitors then train a
network of the same size from scratch, and one that begins as the donor. Both are measured on the foreign shop's
validation weeks. The test slice is never read.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from worker.facts import hash32
from worker.scoring import encode, model
from worker.scoring.batch import Floats
from worker.scoring.bundle import Bundle
from worker.scoring.head import Shape
from worker.shop.ga360 import Sample
from worker.training import finetune, finish, loop
from worker.training.examples import (
    STANDARD_WINDOWS,
    Bools,
    Examples,
    Places,
    fresh,
    learn_vocabulary,
    predict,
    standardise,
)
from worker.training.labels import NAMES, Events, labels, member, require
from worker.training.metrics import Estimate, estimates, resampled
from worker.training.optimiser import Optimiser
from worker.training.transplant import transplant
from worker.training.windows import Windows, build
from worker.window import HEADER, ROW, ROWS_AT

CHANNELS: Final = ("Direct", "Paid Search", "Display", "Affiliates")
"""Of the first visit: these visitors are the foreign shop's."""

SHARES: Final = (0.01, 0.1, 1.0)
METRICS: Final = ("auc", "ap")
SHAPE: Final = Shape(layers=2, hidden=64, heads=2)
BATCH: Final = 256
CHECKS: Final = 5
WATCHED: Final = 4096
"""Windows at most that a checkpoint is chosen on."""

_WHOLE: Final = "the study needs the whole sample, with visitors of all channels"
_RENAMED = ("item", "category", "page")
_ROW = np.dtype(
    [("time", "<u4"), ("item", "<u4"), ("category", "<u4"), ("page", "<u4"), ("kind_price", "<u4"), ("session", "<u2")]
)
assert _ROW.itemsize == ROW.size
_CHANNEL_AT = HEADER.size  # where a window's context begins: its first hash is the channel's


@dataclass(frozen=True, slots=True)
class Foreign(Windows):
    """Windows whose items, categories and pages have other names."""

    key: int

    def take(self, places: Places) -> list[bytes]:
        """As `Windows.take`."""
        return [window[:ROWS_AT] + self._renamed(window[ROWS_AT:]) for window in Windows.take(self, places)]

    def _renamed(self, content: bytes) -> bytes:
        rows = np.frombuffer(content, _ROW).copy()
        for field in _RENAMED:
            mixed = (rows[field].astype(np.uint64) + np.uint64(self.key)) * np.uint64(0x9E3779B97F4A7C15)
            named = ((mixed ^ (mixed >> np.uint64(29))) >> np.uint64(16)).astype(np.uint32)
            rows[field] = np.where(rows[field] == 0, 0, np.maximum(named, 1))
        return rows.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One share and horizon: scratch beside transfer, and the paired difference."""

    share: float
    visitors: int
    windows: int
    horizon: str
    metric: str
    scratch: Estimate | None
    """None, and no difference, where nothing was learnt of the foreign shop."""
    transfer: Estimate
    difference: Estimate | None


@dataclass(frozen=True, slots=True)
class Study:
    """What came out: how many instants it was measured on, and the lines; the donor as it is has share 0."""

    instants: int
    lines: list[Line]


def study(sample: Path, cache: Path, *, windows: int, draws: int, say: Callable[[str], None]) -> Study:
    """The whole of it. `windows` are what the donor and the largest share learn from, `draws` resamples of visitors."""
    say("folding the sample")
    events, kept = build(Sample(sample), cache)
    foreign = foreigners(events, kept)
    own = Examples.of(events, kept, "train")
    other = replace(own, windows=Foreign(kept.content, kept.ends, key=20_240_501))
    in_train, y = own.counted.any(axis=1), labels(events)
    require(own.counted & ~foreign[:, None], "training", of="the donor's part of the sample", why=_WHOLE)
    require(own.counted & foreign[:, None], "training", of="the foreign part of the sample", why=_WHOLE)
    inside = member(events, "validation") & foreign[:, None]
    require(inside, "validation", of="the foreign part of the sample", why=_WHOLE)
    say("the donor")
    donor = _donor(_of(own, in_train & ~foreign), windows)
    lines = []
    measured = np.flatnonzero(inside.any(axis=1))
    for share in SHARES:
        learnt = max(BATCH * CHECKS, round(windows * share**0.5))
        some = _of(other, _drawn(events.visitor, in_train & foreign, share))
        vocabulary = learn_vocabulary(some.windows, some.pool, least=20 if share == 1 else 5)
        torch.manual_seed(1)
        scratch = model.build(donor.shape, vocabulary)
        standardise(scratch, some.windows, np.random.default_rng(1).permutation(some.pool)[:STANDARD_WINDOWS])
        begun = {"scratch": scratch, "transfer": transplant(donor, vocabulary)}
        scores = {}
        for name, network in begun.items():
            rate = 1e-3 if name == "scratch" else 3e-4
            say(f"{share:.0%} of the visitors, {name}")
            _fit(network, vocabulary, some, rate=rate, windows=learnt)
            scores[name] = predict(model.weights(network), vocabulary, other.windows, measured)
        people = len(np.unique(events.visitor[some.pool]))
        lines += _compared(events, y, measured, scores, draws=draws, learnt=(share, people, learnt))
    untrained = predict(donor.weights, donor.vocabulary, other.windows, measured)
    lines += _compared(events, y, measured, {"transfer": untrained}, draws=draws, learnt=(0.0, 0, 0))
    return Study(len(measured), lines)


def foreigners(events: Events, windows: Windows) -> Bools:
    """[n] events of visitors whose first event came by one of `CHANNELS`."""
    starts = np.concatenate([[0], windows.ends[:-1]])
    _, first = np.unique(events.visitor, return_index=True)
    at = starts[first][:, None] + _CHANNEL_AT + np.arange(4)
    channel = windows.content[at].copy().view("<u4")[:, 0]
    return np.asarray(np.isin(channel, [hash32(name) for name in CHANNELS])[events.visitor])


def _of(examples: Examples, chosen: Bools) -> Examples:
    """Those of them that are chosen, [n]."""
    return replace(examples, counted=examples.counted & chosen[:, None])


def _drawn(visitor: Places, chosen: Bools, share: float) -> Bools:
    """[n] events of a share of the visitors that have chosen ones, who are among those of every larger share."""
    order = np.random.default_rng(9).permutation(int(visitor.max()) + 1)
    people = np.unique(visitor[chosen])
    some = people[np.argsort(order[people])][: max(1, round(share * len(people)))]
    return np.asarray(chosen & np.isin(visitor, some))


def _donor(examples: Examples, windows: int) -> Bundle:
    """A model of the other visitors."""
    network, vocabulary = fresh(examples, SHAPE, seed=2)
    _fit(network, vocabulary, examples, rate=1e-3, windows=windows)
    return finish.bare("donor", SHAPE, vocabulary, network)


def _fit(
    network: model.IntentModel,
    vocabulary: encode.Vocabulary,
    examples: Examples,
    *,
    rate: float,
    windows: int,
) -> None:
    """Trains in place; to the checkpoint of least log loss on a fifth of the visitors."""
    plan = finetune.Plan(seed=5, batch_windows=BATCH, bf16=False, shape=SHAPE)
    steps = max(CHECKS, windows // BATCH)
    aside = examples.visitor % 5 == 0
    watched = np.random.default_rng(plan.seed).permutation(_of(examples, aside).pool)[:WATCHED]
    draw = loop.Draw(_of(examples, ~aside).pool, BATCH, seed=plan.seed)

    def gradients(step: int, rng: np.random.Generator) -> float:
        return finetune.Step(network, vocabulary, examples, draw(step, rng), plan, rng, head_alone=False).backward()

    loop.run(
        network,
        gradients,
        Optimiser([(network, 1.0)], steps=steps, learning_rate=rate, weight_decay=plan.weight_decay, warm_up=0.1),
        loop.Stage(name="transfer", steps=steps, batch_windows=BATCH, seed=plan.seed, evaluations=CHECKS),
        report=lambda _: None,
        check=lambda one: {"score": -_loss(one, vocabulary, examples, watched)},
    )


def _loss(network: model.IntentModel, vocabulary: encode.Vocabulary, examples: Examples, places: Places) -> float:
    """Mean log loss over the labels that count."""
    logits, y = predict(model.weights(network), vocabulary, examples.windows, places), examples.y[places]
    return float(np.logaddexp(0.0, np.where(y, -logits, logits))[examples.counted[places]].mean())


def _compared(
    events: Events,
    y: Bools,
    places: Places,
    scores: dict[str, Floats],
    *,
    draws: int,
    learnt: tuple[float, int, int],
) -> list[Line]:
    """Paired: both are measured on the same resampled visitors. Where nothing was learnt, the donor is alone."""
    inside = member(events, "validation")[places]
    lines = []
    for at, horizon in enumerate(NAMES):
        rows = inside[:, at]
        truth = y[places[rows], at]
        p = {name: 1 / (1 + np.exp(-logits[rows, at].astype(np.float64))) for name, logits in scores.items()}
        drawn = resampled(p, truth, events.visitor[places[rows]], draws=draws, seed=0)
        if "scratch" in drawn:
            drawn["difference"] = drawn["transfer"] - drawn["scratch"]
        found = {name: estimates(draw) for name, draw in drawn.items()}
        lines += [
            Line(
                share=learnt[0],
                visitors=learnt[1],
                windows=learnt[2],
                horizon=horizon,
                metric=metric,
                scratch=found.get("scratch", {}).get(metric),
                transfer=found["transfer"][metric],
                difference=found.get("difference", {}).get(metric),
            )
            for metric in METRICS
        ]
    return lines
