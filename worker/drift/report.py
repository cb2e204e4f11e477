"""A drift job's result, for people and for programs: counts what is scored, then says what has moved."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from worker.drift import values
from worker.drift.findings import ORDER, Finding, findings, unseen_items
from worker.drift.matured import Calibration, calibrations, of_rows
from worker.drift.reference import Reference
from worker.errors import CheckFailed, SettingError
from worker.events import Event
from worker.scores import HORIZONS
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle

_COLOURS = {"act": "red", "watch": "yellow", "too few": "dim", "fine": "green"}


def reference_of(bundle: Bundle) -> Reference:
    """Raises `SettingError` for a bundle without one."""
    if bundle.drift is None:
        raise SettingError(
            f"{bundle.name} {bundle.version} holds no reference; `intent drift reference` makes a bundle that has one"
        )
    return bundle.drift


class Watch:
    """What a job has seen. 40 bytes an event, and each user's id once."""

    def __init__(self, bundle: Bundle) -> None:
        self.reference = reference_of(bundle)
        self.bundle = bundle
        self.counts = np.zeros(int(self.reference.starts[-1]), np.int64)
        self._rows: list[tuple[str, int, bool, bool]] = []
        self._intent: list[Floats] = []

    def add(self, events: Sequence[Event], windows: Sequence[bytes], intent: Floats, scored: Sequence[bool]) -> None:
        """Events with their windows and [n, 3] probabilities. Those not `scored` are no instants: they bring labels."""
        if not windows:
            return
        self.counts += values.count(Batch.of(windows), intent, self.bundle.vocabulary, self.reference)
        self._rows += [
            (event.user_id, event.time_ms, instant, event.type == "purchase")
            for event, instant in zip(events, scored, strict=True)
        ]
        self._intent.append(intent)

    def report(self, what: str) -> "Report":
        """Of all that was added."""
        intent = np.concatenate(self._intent) if self._intent else np.zeros((0, len(HORIZONS)), np.float32)
        return Report(
            what=what,
            model=(self.bundle.name, self.bundle.version),
            reference=self.reference.about,
            events=len(self._rows),
            findings=findings(self.reference, self.counts),
            unseen_items=unseen_items(self.reference, self.counts),
            unseen_items_before=unseen_items(
                self.reference, np.concatenate([feature.counts for feature in self.reference.features])
            ),
            calibration=calibrations(of_rows(self._rows), intent),
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

    @property
    def to_act_on(self) -> list[str]:
        """Features and horizons."""
        moved = [finding.feature for finding in self.findings if finding.verdict == "act"]
        return moved + [f"calibration of {one.horizon}" for one in self.calibration if one.verdict == "act"]

    def check(self) -> None:
        """Raises `CheckFailed` where something is to be acted on."""
        if self.to_act_on:
            raise CheckFailed(
                f"drift to act on: {', '.join(self.to_act_on)}; look at what changed in the shop or its tracking, "
                "train again if it is to stay"
            )

    def document(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"model": dict(zip(("name", "version"), self.model, strict=True)), "act": self.to_act_on}

    def table(self) -> RenderableType:
        """For people."""
        name, version = self.model
        title = f"{self.what}: {self.events:,} events beside {name} {version} ({self.reference})"
        inputs = Table(title=title, title_justify="left")
        inputs.add_column("feature")
        for heading in ("counted", "PSI", "by chance", "what moved most", "before", "now"):
            inputs.add_column(heading, justify="right")
        inputs.add_column("")
        for one in sorted(self.findings, key=lambda one: (ORDER.index(one.verdict), -one.psi)):
            inputs.add_row(
                one.feature,
                f"{one.seen:,}",
                f"{one.psi:.3f}",
                f"{one.noise:.3f}",
                one.moved,
                f"{one.was:.1%}",
                f"{one.now:.1%}",
                f"[{_COLOURS[one.verdict]}]{one.verdict}",
            )
        parts: list[RenderableType] = [inputs]
        if self.unseen_items is not None and self.unseen_items_before is not None:
            shares = f"{self.unseen_items:.1%}, before {self.unseen_items_before:.1%}"
            parts.append(f"items that the model has not seen: {shares}")
        if self.calibration:
            parts.append(self._calibration())
        return Group(*parts)

    def _calibration(self) -> Table:
        shown = Table(title="Probabilities beside what happened, where the horizon is over", title_justify="left")
        shown.add_column("horizon")
        for heading in ("scores", "users", "promised", "happened", "ratio", "ECE", "ROC-AUC"):
            shown.add_column(heading, justify="right")
        shown.add_column("")
        for one in self.calibration:
            shown.add_row(
                one.horizon,
                f"{one.scores:,}",
                f"{one.visitors:,}",
                f"{one.promised:.4f}",
                f"{one.happened:.4f}",
                f"{one.ratio:.2f} ({one.low:.2f}–{one.high:.2f})",
                f"{one.ece:.3f}",
                f"{one.auc:.3f}",
                f"[{_COLOURS[one.verdict]}]{one.verdict}",
            )
        return shown
