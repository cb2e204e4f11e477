"""A drift job's result, for people and for programs: counts what is scored, then says what has moved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worker.drift import values
from worker.drift.findings import ORDER, Finding, findings, unseen_items
from worker.drift.matured import Calibration, Rows, calibrations
from worker.drift.reference import Reference
from worker.errors import CheckFailed, IntentError, SettingError
from worker.events import Event
from worker.scores import HORIZONS
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.terminal import printable

_LONGEST = 40

_COLOURS = {"act": "red", "watch": "yellow", "too few": "dim", "fine": "green"}


def reference_of(bundle: Bundle) -> Reference:
    """Raises `SettingError` for a bundle without one."""
    if bundle.drift is None:
        raise SettingError(
            f"the bundle (--bundle, or the settings of `model`) is {bundle.name} {bundle.version}, which holds no "
            "reference; `intent drift reference` makes a bundle that has one"
        )
    return bundle.drift


class Watch:
    """What a job has seen. Some 30 bytes an event, and each user's id once."""

    def __init__(self, bundle: Bundle) -> None:
        self.reference = reference_of(bundle)
        self.bundle = bundle
        self.counts = np.zeros(int(self.reference.starts[-1]), np.int64)
        self._hashes = {int(name) for one in self.reference.features if one.names is not None for name in one.names}
        self._names: dict[int, str] = {}
        self._rows = Rows()
        self._intent: list[Floats] = []
        self.seen_ms: int | None = None  # when the last of it arrived, where that is known

    def add(self, events: Sequence[Event], windows: Sequence[bytes], intent: Floats, scored: Sequence[bool]) -> None:
        """Events with their windows and [n, 3] probabilities. Those not `scored` are no instants: they bring labels."""
        if not windows:
            return
        self.counts += values.count(Batch.of(windows), intent, self.bundle.vocabulary, self.reference)
        for event, instant in zip(events, scored, strict=True):
            self._rows.add(event.user_id, event.time_ms, instant=instant, purchase=event.type == "purchase")
        self._intent.append(intent)
        for event in events:
            for hashed, name in values.hashes(event):
                if hashed in self._hashes:
                    self._names[hashed] = name

    def arrived(self, time_ms: int) -> None:
        """Something that was added, or will be, arrived then, UTC ms."""
        self.seen_ms = time_ms if self.seen_ms is None else max(self.seen_ms, time_ms)

    def report(self, what: str, *, fates: Mapping[str, int] | None = None) -> "Report":
        """Of all that was added; `fates`: what became of the records it came from."""
        intent = np.concatenate(self._intent) if self._intent else np.zeros((0, len(HORIZONS)), np.float32)
        return Report(
            what=what,
            model=(self.bundle.name, self.bundle.version),
            reference=self.reference.about,
            events=len(self._rows),
            records={fate: count for fate, count in (fates or {}).items() if count},
            findings=findings(self.reference, self.counts, self._names),
            unseen_items=unseen_items(self.reference, self.counts),
            unseen_items_before=unseen_items(
                self.reference, np.concatenate([feature.counts for feature in self.reference.features])
            ),
            calibration=calibrations(self._rows.events(), intent, seen_ms=self.seen_ms),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What has moved, and how far."""

    what: str
    model: tuple[str, str]
    reference: str
    events: int
    findings: list[Finding]
    unseen_items: float | None
    unseen_items_before: float | None
    calibration: list[Calibration] = field(default_factory=list)
    records: dict[str, int] = field(default_factory=dict)
    """By fate, where they came from a topic."""

    @property
    def to_act_on(self) -> list[str]:
        """Features and horizons."""
        moved = [finding.feature for finding in self.findings if finding.verdict == "act"]
        return moved + [f"calibration of {one.horizon}" for one in self.calibration if one.verdict == "act"]

    def check(self) -> None:
        """Raises `CheckFailed` where something is to be acted on, `IntentError` where nothing could be judged."""
        if self.to_act_on:
            raise CheckFailed(
                f"drift to act on: {', '.join(self.to_act_on)}; look at what changed in the shop or its tracking, "
                "train again if it is to stay"
            )
        verdicts = {one.verdict for one in self.findings} | {one.verdict for one in self.calibration}
        if verdicts <= {"too few"}:
            raise IntentError(
                f"there is nothing to compare: {self.what} has {self.events:,} events, too few to judge any feature "
                "by; name a longer stretch with --from and --to"
            )

    def document(self) -> dict[str, Any]:
        """For programs: plain JSON values, null for a number that there is none of, such as the noise of no events."""
        names = dict(zip(("name", "version"), self.model, strict=True))
        found: dict[str, Any] = _finite(asdict(self) | {"model": names, "act": self.to_act_on})
        return found

    def table(self) -> RenderableType:
        """For people."""
        name, version = self.model
        parts: list[RenderableType] = [
            Text(f"{self.what}: {self.events:,} events beside {name} {version} ({self.reference})", style="italic")
        ]
        if self.records.keys() - {"scored"}:
            shown = ", ".join(f"{fate} {count:,}" for fate, count in self.records.items())
            parts.append(f"of {sum(self.records.values()):,} records: {shown}")
        inputs = _table("verdict", "feature", "counted", "PSI", "chance")
        inputs.add_column("what moved most")
        for one in sorted(self.findings, key=lambda one: (ORDER.index(one.verdict), -one.psi)):
            inputs.add_row(
                Text(one.verdict, style=_COLOURS[one.verdict]),
                one.feature,
                f"{one.seen:,}",
                f"{one.psi:.3f}",
                _decimals(one.noise),
                Text(f"{_name(one.moved)} {one.was:.1%} → {one.now:.1%}"),
            )
        parts += ["", inputs, ""]
        if self.unseen_items is not None and self.unseen_items_before is not None:
            shares = f"{self.unseen_items:.1%}, before {self.unseen_items_before:.1%}"
            parts.append(f"items that the model has not seen: {shares}")
        if self.calibration:
            parts += ["", Text("probabilities beside what happened, where the horizon is over", style="italic")]
            parts.append(self._calibration())
        return Group(*parts)

    def _calibration(self) -> Table:
        shown = _table("verdict", "horizon", "users", "promised", "happened", "ratio (95 %)", "ECE", "AUC")
        for one in self.calibration:
            shown.add_row(
                Text(one.verdict, style=_COLOURS[one.verdict]),
                one.horizon,
                f"{one.visitors:,}",
                f"{one.promised:.2%}",
                f"{one.happened:.2%}",
                f"{one.ratio:.2f} ({one.low:.2f}–{one.high:.2f})",
                _decimals(one.ece),
                _decimals(one.auc),
            )
        return shown


def _table(verdict: str, name: str, *numbers: str) -> Table:
    """Whole on a terminal of 80 columns: no lines, and no name is cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (verdict, name):
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _decimals(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""


def _name(text: str) -> str:
    """A shop's own name: nothing in it steers a terminal."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
