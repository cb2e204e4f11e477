"""What is scored: windows of two length mixes, cut into batches, and what they cost. Knows no model and no scorer."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from loadtest import population
from worker import facts, window
from worker.facts import Facts
from worker.scoring import aggregates, encode
from worker.scoring.batch import Batch, Floats

Mix = Literal["fixed", "real"]
MIXES: Final[tuple[Mix, ...]] = ("fixed", "real")
POOL: Final = 4096
"""Windows of each mix."""

FIXED_POSITIONS: Final = 64
"""*fixed*: 63 events and the position before them."""

_EVENTS: Final = 200_000
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Pool:
    """`POOL` windows of each mix, in the order in which batches take them; `source` says whose events they are."""

    windows: dict[Mix, list[bytes]]
    source: str

    def save(self, folder: Path) -> None:
        """For the scorers' processes."""
        for mix, windows in self.windows.items():
            lengths = np.array([len(each) for each in windows])
            np.savez(folder / f"{mix}.npz", lengths=lengths, joined=np.frombuffer(b"".join(windows), np.uint8))

    @staticmethod
    def load(folder: Path, mix: Mix) -> list[bytes]:
        """The windows of a mix."""
        with np.load(folder / f"{mix}.npz") as saved:
            joined, ends = saved["joined"].tobytes(), np.cumsum(saved["lengths"]).tolist()
        return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def made(sample: Path | None, *, pool: int = POOL, events: int = _EVENTS) -> Pool:
    """Folds the stream's first events as the worker would; from the sample, or simulated shoppers where it is None.

    *real* are windows as events left them, drawn from the second half, when returning visitors have a history, and laid
    out so that batches are alike in their lengths.
    """
    rules = window.Rules()
    rng = random.Random(_SEED)
    now: dict[str, bytes] = {}
    run: list[Facts] = []
    fixed: list[bytes] = []
    real: list[bytes] = []
    for number, event in enumerate(islice(population.events(sample, count=events), events)):
        fact = facts.of(event)
        now[event.user_id] = after = window.fold(now.get(event.user_id), fact, rules=rules).window
        if number >= events // 2:
            real.append(after)
        run.append(fact)
        if len(run) == FIXED_POSITIONS - 1:
            if len(fixed) < pool:
                fixed.append(_one(run, rules=rules))
            run.clear()
    if not fixed or not real:
        raise ValueError(f"{events} events are too few to fill a window")
    return Pool(
        {"fixed": [fixed[place % len(fixed)] for place in range(pool)], "real": _spread(rng.choices(real, k=pool))},
        "the GA360 sample" if sample else "simulated shoppers",
    )


def _spread(windows: Sequence[bytes]) -> list[bytes]:
    """The same in an order in which any few that follow each other have lengths as all have.

    In a run of so many seconds a slow scorer comes to fewer batches than a fast one: where the first 32 windows have 17
    positions in the mean, and others 33, as happened by chance, the two are compared on different work.
    """
    ordered = sorted(windows, key=len)
    golden = np.arange(len(ordered)) * (np.sqrt(5) - 1) / 2 % 1  # a sequence of low discrepancy
    return [ordered[rank] for rank in golden.argsort().argsort()]


def _one(run: Sequence[Facts], *, rules: window.Rules) -> bytes:
    """One window of these events, as if one visitor had made them a second apart."""
    made: bytes | None = None
    for number, fact in enumerate(run):
        alone = structs.replace(fact, id=number + 1, time_ms=run[0].time_ms + 1000 * number)
        made = window.fold(made, alone, rules=rules).window
    assert made is not None
    return made


def positions(windows: Iterable[bytes]) -> NDArray[np.int64]:
    """[B] positions that each window has in the transformer: its events and the one before them."""
    return np.array([window.length(each) + 1 for each in windows], np.int64)


def batches(windows: Sequence[bytes], size: str, *, most: int) -> list[Sequence[bytes]]:
    """At most `most` different batches, in the pool's order. `size` is a number of windows, or of positions with `t`.

    A budget of positions is never exceeded. Windows that fill no whole batch are left out, unless there is no other.
    """
    if not size.endswith("t"):
        step = int(size)
        ends = list(range(step, len(windows) + 1, step))
    else:
        budget, filled, ends = int(size[:-1]), 0, []
        for place, length in enumerate(positions(windows).tolist()):
            if filled and filled + length > budget:
                ends.append(place)
                filled = 0
            filled += length
    ends = ends[:most] or [len(windows)]
    return [windows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def flops(lengths: NDArray[np.int64], *, layers: int, hidden: int) -> float:
    """Floating-point work of the transformer over windows of these lengths, nothing padded and nothing left out.

    A position costs L (24 H^2 + 4 S H), with S its window's length: projections and MLP, then scores and their sum.
    """
    per_position = layers * (24.0 * hidden**2 + 4.0 * hidden * lengths)
    return float((per_position * lengths).sum())


@dataclass(frozen=True, slots=True)
class Columns:
    """A batch as every scorer gets it: the worker's own encoding, before any padding or packing."""

    batch: Batch
    tokens: NDArray[np.int32]  # [N, FIELDS]
    contexts: NDArray[np.int32]  # [B, CONTEXT]
    sums: Floats  # [B, aggregates]

    @classmethod
    def of(cls, windows: Sequence[bytes], vocabulary: encode.Vocabulary) -> Self:
        """Of at least one window."""
        batch = Batch.of(windows)
        return cls(
            batch, encode.tokens(batch, vocabulary), encode.contexts(batch, vocabulary), aggregates.aggregates(batch)
        )

    def padded(self, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Tokens, contexts and aggregates of the chosen windows, padded to the longest of them."""
        return encode.padded(self.batch, self.tokens, chosen), self.contexts[chosen], self.sums[chosen]
