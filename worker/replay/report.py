"""What a replay found, for people and for programs. Counts and distributions only: no user, no clock."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from worker.errors import CheckFailed
from worker.fold import Batch
from worker.replay.plan import Plan
from worker.scores import HORIZONS, Model, Rating
from worker.terminal import printable

QUANTILES: Final = (0.01, 0.1, 0.5, 0.9, 0.99)
_BINS: Final = 100_000


class Distribution:
    """Values between 0 and 1 in bounded memory; quantiles are right to 1e-5."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._bins = np.zeros(_BINS, dtype=np.int64)
        self._max = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Count values."""
        if not values:
            return
        array = np.asarray(values, dtype=np.float64)
        places = np.minimum((array * _BINS).astype(np.int64), _BINS - 1)
        np.add.at(self._bins, places, 1)
        self.count += len(array)
        self._sum += float(array.sum())
        self._max = max(self._max, float(array.max()))

    def summary(self) -> dict[str, float] | None:
        """Mean, quantiles and maximum; None without values."""
        if not self.count:
            return None
        cumulative = np.cumsum(self._bins)
        ranks = np.ceil(np.array(QUANTILES) * self.count).astype(np.int64)
        values = (np.searchsorted(cumulative, ranks, side="left") + 0.5) / _BINS
        quantiles = {
            f"p{quantile * 100:g}": round(float(value), 5) for quantile, value in zip(QUANTILES, values, strict=True)
        }
        return {"mean": round(self._sum / self.count, 6), **quantiles, "max": self._max}


@dataclass(slots=True)
class Tally:
    """What is counted while a replay runs. One for all partitions; not shared between threads."""

    warmed: int = 0
    """Records before the range, folded only."""
    read: int = 0
    """Records of the range."""
    fates: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    distributions: dict[str, Distribution] = field(
        default_factory=lambda: {name: Distribution() for name in (*HORIZONS, "risk")}
    )

    def add(self, batch: Batch, ratings: Sequence[Rating]) -> None:
        """Count a batch of the range."""
        self.read += len(batch.timestamps)
        self.fates.update(batch.fates)
        self.dead_letters.update(rejected.reason for rejected in batch.rejected)
        for horizon in HORIZONS:
            self.distributions[horizon].add([getattr(rating.intent, horizon) for rating in ratings])
        self.distributions["risk"].add([rating.risk.score for rating in ratings])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one replay."""

    plan: Plan
    mode: str
    model: Model
    out: Path
    rows: int
    tally: Tally
    elapsed_s: float

    def check(self) -> None:
        """Raises `CheckFailed` unless each record has one fate and each scored one its row."""
        tally = self.tally
        if tally.fates.total() != tally.read or self.rows != tally.fates["scored"]:
            raise CheckFailed(
                f"{tally.read} records were read, {tally.fates.total()} have a fate, "
                f"{tally.fates['scored']} were scored and {self.rows} rows written: these do not add up"
            )

    @property
    def events_per_s(self) -> float:
        """Records a second, those of the warm-up included."""
        return (self.tally.read + self.tally.warmed) / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def cut(self) -> list[int]:
        """Partitions whose users may have had more in their windows live: what was before is deleted from the topic."""
        return [stretch.partition for stretch in self.plan.stretches if stretch.cut]

    def document(self) -> dict[str, object]:
        """For programs; plain JSON values."""
        tally = self.tally
        return {
            "topic": self.plan.topic,
            "partitions": {
                str(stretch.partition): {"warm_from": stretch.warm_from, "start": stretch.start, "end": stretch.end}
                for stretch in self.plan.stretches
            },
            "partitions_cut": self.cut,
            "mode": self.mode,
            "model": {"name": self.model.name, "version": self.model.version},
            "out": str(self.out),
            "rows": self.rows,
            "records": {"warmed_up": tally.warmed, "read": tally.read},
            "fates": {fate: count for fate, count in sorted(tally.fates.items()) if count},
            "dead_letters": dict(sorted(tally.dead_letters.items())),
            "distribution": {name: values.summary() for name, values in tally.distributions.items()},
            "elapsed_s": round(self.elapsed_s, 3),
            "events_per_s": round(self.events_per_s, 1),
        }

    def table(self) -> RenderableType:
        """For people."""
        tally = self.tally
        counts = Table(title=f"Replay of {self.plan.topic}", title_justify="left", show_header=False)
        counts.add_column(style="bold")
        counts.add_column(justify="right")
        rows = {
            "partitions": f"{len(self.plan.stretches)}",
            "records folded to warm up": f"{tally.warmed:,}",
            **({"  earlier ones are deleted in": f"{len(self.cut)} partitions"} if self.cut else {}),
            "records read": f"{tally.read:,}",
            **{f"  {fate}": f"{count:,}" for fate, count in tally.fates.most_common() if count},
            "for dead letters": f"{tally.dead_letters.total():,}",
            **{f"  {reason} ": f"{count:,}" for reason, count in tally.dead_letters.most_common()},
            "events/s": f"{self.events_per_s:,.0f}",
            "model": f"{self.model.name} {self.model.version}",
            "scores written": f"{self.rows:,} to {self.out}",
        }
        for name, shown in rows.items():
            counts.add_row(*(escape(printable(cell)) for cell in (name, shown)))
        spread = Table(title="Scores", title_justify="left")
        spread.add_column("")
        columns = ("mean", *(f"p{quantile * 100:g}" for quantile in QUANTILES), "max")
        for column in columns:
            spread.add_column(column, justify="right")
        for name, values in tally.distributions.items():
            if (summary := values.summary()) is not None:
                spread.add_row(name, *(f"{summary[column]:.4f}" for column in columns))
        return Group(counts, spread) if spread.row_count else counts
