"""Models that know the sample up to a date only, and the later instants that judge what continues them.

Owns the folder of such models, kept for the next study. A model's date is when the last label that it saw became known.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from loadtest import workload
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle
from worker.scoring.encode import Vocabulary
from worker.scoring.head import Shape
from worker.shop.ga360 import Sample
from worker.training import continual, finetune, finish, loop
from worker.training import windows as offline
from worker.training.examples import Examples, fresh
from worker.training.labels import NAMES, START, Bools, Events, held_out, labels
from worker.training.metrics import measure
from worker.training.succession import differences
from worker.training.windows import Windows

SHAPE: Final = Shape(members=4, aside=4)
WINDOWS: Final = 61_440
"""Of a base: about two minutes of one core."""

_LEARNING_RATE: Final = 1e-3

Probabilities = NDArray[np.float64]


def read(sample: Path | None, runs: Path) -> tuple[Events, Windows]:
    """The real sample's events and windows; there is no study without them."""
    return offline.build(Sample(workload.needed_sample(sample)), runs / "cache")


def plan(seed: int) -> finetune.Plan:
    """What all models of the studies have in common."""
    bf16 = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return finetune.Plan(seed=seed, bf16=bf16, shape=SHAPE)


def base(
    events: Events,
    windows: Windows,
    *,
    until_ms: int,
    common: finetune.Plan,
    folder: Path,
    report: Callable[[loop.Progress], None],
    size: int = WINDOWS,
) -> Bundle:
    """Trained from scratch on `size` windows of what was known by then; from `folder` if it is there already: of the
    same data and the same plan.
    """
    kept = folder / f"base-{_key(events, windows, common, until_ms=until_ms, size=size)}"
    if (kept / bundles.CHECKSUMS).exists():
        return bundles.load(kept)
    then = continual.known(events, from_ms=START, until_ms=until_ms)
    examples = Examples.where(events, windows, y=labels(events), counted=then)
    network, vocabulary = fresh(examples, common.shape, seed=common.seed)
    update = continual.Update(
        since_ms=START, until_ms=until_ms, windows=size, learning_rate=_LEARNING_RATE, watched_windows=16_000, checks=8
    )
    trained = continual.fit(network, vocabulary, events, windows, update, common, report=report)
    card = "# Where a study begins\n\nNot for use: no calibration, no reason codes.\n"
    made = finish.bare("base", common.shape, vocabulary, trained.model, card=card)
    bundles.save(kept, made)
    return bundles.load(kept)


def _key(events: Events, windows: Windows, common: finetune.Plan, *, until_ms: int, size: int) -> str:
    """Changes with whatever a base is made of: a study goes on from nobody else's."""
    made = hashlib.sha256(json.dumps([until_ms, size, _LEARNING_RATE, asdict(common)]).encode())
    for column in (events.visitor, events.time_ms, windows.ends, labels(events)):
        made.update(np.ascontiguousarray(column).tobytes())
    return made.hexdigest()[:12]


class Judges:
    """Instants of one visitor in so many, of labels that no contender learns from."""

    def __init__(self, events: Events, windows: Windows, member: Bools, *, one_in: int) -> None:
        member = member & held_out(events.visitor, one_in=one_in)[:, None]
        self.places = np.flatnonzero(member.any(axis=1))
        self.member, self.y = member[self.places], labels(events)[self.places]
        self.visitor, self.windows = events.visitor[self.places], windows

    def probabilities(self, network: torch.nn.Module, vocabulary: Vocabulary) -> Probabilities:
        """[instants, horizons], not calibrated."""
        logits = continual.padded_logits(network, vocabulary, self.windows, self.places, device=finetune.CPU)
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    def numbers(self, p: Probabilities) -> dict[str, dict[str, float]]:
        """`metrics.METRICS` of each horizon that has instants."""
        return {name: measure(p[rows, at], self.y[rows, at]) for at, name, rows in self._horizons()}

    def against(self, former: Probabilities, p: Probabilities, *, draws: int) -> dict[str, dict[str, dict[str, float]]]:
        """Those of `p` minus those of `former`, paired, with intervals by visitor; as plain JSON values."""
        found = {}
        for at, name, rows in self._horizons():
            y, visitor = self.y[rows, at], self.visitor[rows]
            estimates = differences(former[rows, at], p[rows, at], y, visitor, draws=draws)
            found[name] = {metric: asdict(each) for metric, each in estimates.items()}
        return found

    def _horizons(self) -> list[tuple[int, str, NDArray[np.bool_]]]:
        rows = list(self.member.T)
        return [(at, name, rows[at]) for at, name in enumerate(NAMES) if rows[at].any()]


def bystanders(events: Events, windows: Windows, *, until_ms: int, one_in: int) -> Judges:
    """Instants of what was known by then, of visitors that teach neither a base nor what continues it: others' are
    replayed, so that a model might seem to remember what it has just been told again.
    """
    parts = continual.split(events, since_ms=START, until_ms=until_ms)
    return Judges(events, windows, parts.judging, one_in=one_in)


def joined(judges: Sequence[Judges]) -> Judges:
    """All of their instants, behind one another."""
    whole = copy.copy(judges[0])
    whole.places, whole.member, whole.y, whole.visitor = (
        np.concatenate([getattr(each, name) for each in judges]) for name in ("places", "member", "y", "visitor")
    )
    return whole
