"""`python -m loadtest transfer`: what another shop's model is worth to a shop that is just beginning to collect.

A part of the real sample's visitors becomes a foreign shop: chosen by the channel of their first visit, so that the mix
differs, with items, categories and pages renamed by a keyed hash. A donor learns from the other visitors only; shares
of the foreign shop's training visitors then train a network of the same size from scratch, and one that begins as the
donor. Both are measured on the foreign shop's validation weeks. The test slice is never read.
"""

import copy
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import orjson
import torch
import typer
from numpy.typing import NDArray
from rich.table import Table
from torch import nn

from worker.facts import hash32
from worker.scores import REASONS
from worker.scoring import aggregates, encode, forward, model
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.calibration import Calibration
from worker.scoring.reasons import Surrogate
from worker.shop.ga360 import Sample
from worker.terminal import err, out
from worker.training.finetune import predict
from worker.training.labels import NAMES, Events, labels, member
from worker.training.metrics import measure
from worker.training.transplant import transplant
from worker.training.windows import Windows, build
from worker.window import ROW, ROWS_AT

CHANNELS: Final = ("Direct", "Paid Search", "Display", "Affiliates")
"""Of the first visit: these visitors are the foreign shop's."""

SHARES: Final = (0.01, 0.1, 1.0)
METRICS: Final = ("auc", "ap")
BATCH: Final = 256
CHECKS: Final = 5
FORGET: Final = 0.2

_RENAMED = ("item", "category", "page")
_ROW = np.dtype(
    [("time", "<u4"), ("item", "<u4"), ("category", "<u4"), ("page", "<u4"), ("kind_price", "<u4"), ("session", "<u2")]
)
assert _ROW.itemsize == ROW.size
_CHANNEL_AT = 12  # of a window's header: the context's first hash


Places = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Windows whose items, categories and pages have other names."""

    windows: Windows
    key: int

    def take(self, places: Places) -> list[bytes]:
        """As `Windows.take`."""
        return [window[:ROWS_AT] + self._renamed(window[ROWS_AT:]) for window in self.windows.take(places)]

    def _renamed(self, content: bytes) -> bytes:
        rows = np.frombuffer(content, _ROW).copy()
        for field in _RENAMED:
            mixed = (rows[field].astype(np.uint64) + np.uint64(self.key)) * np.uint64(0x9E3779B97F4A7C15)
            named = ((mixed ^ (mixed >> np.uint64(29))) >> np.uint64(16)).astype(np.uint32)
            rows[field] = np.where(rows[field] == 0, 0, np.maximum(named, 1))
        return rows.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt from, and what is measured on."""

    windows: Any  # `Windows`, or a `Foreign`
    visitor: Places
    y: Bools
    counted: Bools

    def fit(
        self, network: model.IntentModel, vocabulary: encode.Vocabulary, pool: Places, *, rate: float, windows: int
    ) -> None:
        """Trains in place; to the checkpoint of least loss on a fifth of the visitors."""
        rng = np.random.default_rng(5)
        torch.manual_seed(5)
        aside = self.visitor[pool] % 5 == 0
        learn, check = pool[~aside], rng.permutation(pool[aside])[:4096]
        steps = max(CHECKS, windows // BATCH)
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
        best, least = copy.deepcopy(network.state_dict()), self.loss(network, vocabulary, check)
        for step in range(1, steps + 1):
            network.train()
            self._step(network, vocabulary, rng.choice(learn, BATCH), rng)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
            if step % max(1, steps // CHECKS) == 0 and (loss := self.loss(network, vocabulary, check)) < least:
                best, least = copy.deepcopy(network.state_dict()), loss
        network.load_state_dict(best)

    def loss(self, network: model.IntentModel, vocabulary: encode.Vocabulary, places: Places) -> float:
        """Mean log loss over the horizons that count."""
        scored = torch.from_numpy(predict(network, vocabulary, self.windows, places))
        target = torch.from_numpy(self.y[places]).float()
        each = nn.functional.binary_cross_entropy_with_logits(scored, target, reduction="none").numpy()
        return float(each[self.counted[places]].mean())

    def _step(
        self, network: model.IntentModel, vocabulary: encode.Vocabulary, places: Places, rng: np.random.Generator
    ) -> None:
        batch = Batch.of(self.windows.take(places))
        tokens = encode.tokens(batch, vocabulary, forgotten=rng.random(batch.events) < FORGET)
        contexts, sums = encode.contexts(batch, vocabulary), aggregates.aggregates(batch)
        y, counted = self.y[places], self.counted[places]
        for chosen in forward.groups(batch.lengths, max_windows=BATCH):
            arrays = (encode.padded(batch, tokens, chosen), contexts[chosen], sums[chosen], y[chosen], counted[chosen])
            grid, context, side, target, counts = map(torch.from_numpy, arrays)
            each = nn.functional.binary_cross_entropy_with_logits(
                network(grid, context, side), target.float(), reduction="none"
            )
            ((each * counts).sum() / counted.sum()).backward()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One share and horizon: scratch beside transfer; (value, low, high) each, by resampling visitors."""

    share: float
    visitors: int
    windows: int
    horizon: str
    metric: str
    scratch: tuple[float, float, float]
    transfer: tuple[float, float, float]
    difference: tuple[float, float, float]


def transfer(
    sample: Annotated[Path, typer.Option(help="Folder of the GA360 sample.")],
    *,
    windows: Annotated[int, typer.Option(min=1024, help="That the donor, and the largest share, learn from.")] = 30_720,
    draws: Annotated[int, typer.Option(min=10, help="Resamples of the visitors.")] = 100,
    runs: Annotated[Path, typer.Option(help="Keeps the folded windows.")] = Path("runs"),
    file: Annotated[Path | None, typer.Option("--out", help="JSON file for the numbers.")] = None,
) -> None:
    """Train on 1, 10 and 100 % of a foreign shop's visitors, from scratch and from another shop's model."""
    began = time.monotonic()
    events, kept = build(Sample(sample), runs / "cache")
    foreign = foreigners(events, kept)
    own = Task(windows=kept, visitor=events.visitor, y=labels(events), counted=member(events, "train"))
    other = replace(own, windows=Foreign(kept, key=20_240_501))
    in_train = own.counted.any(axis=1)
    donor = _donor(own, np.flatnonzero(in_train & ~foreign), windows)
    err.print(f"donor: {time.monotonic() - began:.0f} s")
    lines = []
    measured = np.flatnonzero(member(events, "validation").any(axis=1) & foreign)
    for share in SHARES:
        pool = _drawn(events.visitor, np.flatnonzero(in_train & foreign), share)
        learnt = max(BATCH * CHECKS, round(windows * share**0.5))
        vocabulary = encode.learn([Batch.of(other.windows.take(pool))], least=20 if share == 1 else 5)
        begun = {"scratch": _fresh(donor.shape, vocabulary, other, pool), "transfer": transplant(donor, vocabulary)}
        scores = {}
        for name, network in begun.items():
            other.fit(network, vocabulary, pool, rate=1e-3 if name == "scratch" else 3e-4, windows=learnt)
            scores[name] = predict(network, vocabulary, other.windows, measured)
            err.print(f"{share:.0%} {name}: {time.monotonic() - began:.0f} s")
        people = len(np.unique(events.visitor[pool]))
        lines += _compared(events, own.y, measured, scores, draws=draws, learnt=(share, people, learnt))
    untrained = predict(donor.model, donor.vocabulary, other.windows, measured)
    same = {"scratch": untrained, "transfer": untrained}
    lines += _compared(events, own.y, measured, same, draws=draws, learnt=(0.0, 0, 0))
    if file is not None:
        file.write_bytes(orjson.dumps([asdict(line) for line in lines], option=orjson.OPT_INDENT_2))
    out.print(table(lines, f"foreign shop: {len(measured):,} validation instants, {time.monotonic() - began:.0f} s"))


def foreigners(events: Events, windows: Windows) -> Bools:
    """[n] events of visitors whose first event came by one of `CHANNELS`."""
    starts = np.concatenate([[0], windows.ends[:-1]])
    _, first = np.unique(events.visitor, return_index=True)
    at = starts[first][:, None] + _CHANNEL_AT + np.arange(4)
    channel = windows.content[at].copy().view("<u4")[:, 0]
    return np.asarray(np.isin(channel, [hash32(name) for name in CHANNELS])[events.visitor])


def _drawn(visitor: Places, pool: Places, share: float) -> Places:
    """The places of a share of the visitors, who are among those of every larger share."""
    order = np.random.default_rng(9).permutation(int(visitor.max()) + 1)
    people = np.unique(visitor[pool])
    chosen = people[np.argsort(order[people])][: max(1, round(share * len(people)))]
    return pool[np.isin(visitor[pool], chosen)]


def _fresh(shape: model.Shape, vocabulary: encode.Vocabulary, task: Task, pool: Places) -> model.IntentModel:
    torch.manual_seed(1)
    network = model.build(shape, vocabulary)
    sums = aggregates.aggregates(Batch.of(task.windows.take(np.random.default_rng(1).permutation(pool)[:20_000])))
    network.head.means.copy_(torch.from_numpy(sums.mean(axis=0)))
    network.head.deviations.copy_(torch.from_numpy(np.maximum(sums.std(axis=0), 1e-2)))
    return network


def _donor(task: Task, pool: Places, windows: int) -> Bundle:
    """A model of the other visitors."""
    drawn = np.random.default_rng(2).permutation(pool)[:100_000]
    vocabulary = encode.learn([Batch.of(task.windows.take(drawn))], least=20)
    shape = model.Shape(layers=2, hidden=64, heads=2)
    network = _fresh(shape, vocabulary, task, pool)
    task.fit(network, vocabulary, pool, rate=1e-3, windows=windows)
    none = np.zeros(3, np.float32)
    return Bundle(
        name="donor",
        version="",
        shape=shape,
        vocabulary=vocabulary,
        model=network,
        calibration=Calibration(slopes=none + 1, intercepts=none),
        surrogate=Surrogate(weights=np.zeros(len(REASONS), np.float32), intercept=0.0, r2=0.0),
        card="",
    )


def _compared(
    events: Events,
    y: Bools,
    places: Places,
    scores: dict[str, Floats],
    *,
    draws: int,
    learnt: tuple[float, int, int],
) -> list[Line]:
    """Paired: both are measured on the same resampled visitors."""
    inside = member(events, "validation")[places]
    lines = []
    for at, horizon in enumerate(NAMES):
        rows = inside[:, at]
        truth = y[places[rows], at]
        _, owner = np.unique(events.visitor[places[rows]], return_inverse=True)
        rng, people = np.random.default_rng(0), int(owner.max()) + 1
        weights = [np.bincount(rng.integers(0, people, people), minlength=people)[owner] for _ in range(draws)]
        p = {name: 1 / (1 + np.exp(-logits[rows, at].astype(np.float64))) for name, logits in scores.items()}
        whole = {name: measure(one, truth) for name, one in p.items()}
        drawn = {name: [measure(one, truth, w.astype(np.float64)) for w in weights] for name, one in p.items()}
        for metric in METRICS:
            values = {name: np.array([found[metric] for found in drawn[name]]) for name in p}
            lines.append(
                Line(
                    share=learnt[0],
                    visitors=learnt[1],
                    windows=learnt[2],
                    horizon=horizon,
                    metric=metric,
                    scratch=_interval(whole["scratch"][metric], values["scratch"]),
                    transfer=_interval(whole["transfer"][metric], values["transfer"]),
                    difference=_interval(
                        whole["transfer"][metric] - whole["scratch"][metric], values["transfer"] - values["scratch"]
                    ),
                )
            )
    return lines


def _interval(value: float, drawn: NDArray[np.float64]) -> tuple[float, float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(value), float(low), float(high)


def table(lines: list[Line], title: str) -> Table:
    """For a terminal."""
    shown = Table(title=title, title_justify="left")
    for name in ("share", "visitors", "horizon", "metric", "from scratch", "from the donor", "difference"):
        shown.add_column(name, justify="right")
    for line in sorted(lines, key=lambda line: (line.share, NAMES.index(line.horizon))):
        scratch = "-" if line.share == 0 else _said(line.scratch)
        difference = "" if line.share == 0 else _said(line.difference)
        cells = (line.horizon, line.metric.upper(), scratch, _said(line.transfer), difference)
        shown.add_row(f"{line.share:.0%}", f"{line.visitors:,}", *cells)
    return shown


def _said(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f}–{found[2]:.3f})"
