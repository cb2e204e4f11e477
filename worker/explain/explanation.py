"""One score explained: the story, the score, what each part contributes by each method; as tables and as a document."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worker.explain.occlusion import occlusion
from worker.explain.parts import GROUPS, Attribution
from worker.explain.scorer import Scorer
from worker.explain.story import Story
from worker.explain.story import document as step_document
from worker.scores import HORIZONS, NO_REASON, REASONS
from worker.scores import Model as ModelName
from worker.scoring import reasons
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.encode import COLUMNS
from worker.terminal import printable

if TYPE_CHECKING:
    from worker.explain.gradients import Integrated

OCCLUSION: Final = "occlusion"
GRADIENTS: Final = "integrated gradients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Of one horizon's score."""

    story: Story
    model: ModelName
    horizon: str
    probability: float
    logit: float  # calibrated
    methods: dict[str, Attribution]  # by `OCCLUSION`, `GRADIENTS`: those that were asked for
    integrated: "Integrated | None"
    codes: dict[str, float]  # the reason codes that the stream publishes, and their weights

    def document(self) -> dict[str, Any]:
        """For programs; plain JSON values. Lists over events run in parallel with `events`."""
        return {
            "user_id": self.story.user_id,
            "model": {"name": self.model.name, "version": self.model.version},
            "horizon": self.horizon,
            "probability": round(self.probability, 6),
            "logit": round(self.logit, 4),
            "events": [step_document(step) for step in self.story.steps],
            "context": self.story.context,
            "contributions": {name: one.document() for name, one in self.methods.items()},
            "reasons": [{"code": code, "weight": round(weight, 4)} for code, weight in self.codes.items()],
            "dropped": self.story.dropped,
        }


def explain(bundle: Bundle, story: Story, *, horizon: str, methods: tuple[str, ...], device: str) -> Explanation:
    """`horizon` is one of `scores.HORIZONS`. Some 0.1 s on one core once the model is loaded."""
    at = HORIZONS.index(horizon)
    scorer, windows = Scorer(bundle, device=device), [story.window]
    logits = scorer.logits(windows)
    each = 1 / (1 + np.exp(-logits[0]))
    found: dict[str, Attribution] = {}
    integrated = None
    if OCCLUSION in methods:
        found[OCCLUSION] = occlusion(scorer, windows, horizon=at)[0]
    if GRADIENTS in methods:
        from worker.explain.gradients import integrated_gradients  # with captum, which occlusion does without

        bundle.model.to(device)
        integrated = integrated_gradients(bundle, windows, horizon=at)[0]
        found[GRADIENTS] = integrated.attribution
    codes, weights = reasons.top(Batch.of(windows), bundle.surrogate)
    return Explanation(
        story=story,
        model=bundle.label,
        horizon=horizon,
        probability=float(each[: at + 1].max()),  # a longer horizon is never less likely than a shorter one
        logit=float(logits[0, at]),
        methods=found,
        integrated=integrated,
        codes={
            REASONS[code]: float(weight)
            for code, weight in zip(codes[0].tolist(), weights[0].tolist(), strict=True)
            if code != NO_REASON
        },
    )


def rows(found: Explanation) -> list[dict[str, Any]]:
    """The lines of the first table: an event each, newest first, with its contributions in the methods' order."""
    return [
        {
            "number": place + 1,
            "step": step,
            "opens": step.opens,
            "values": [float(one.events[place]) for one in found.methods.values()],
        }
        for place, step in reversed(list(enumerate(found.story.steps)))
    ]


def beside(found: Explanation) -> list[tuple[str, str, list[float]]]:
    """The lines of the second: (part, what it holds, contributions), the weightiest first."""
    lines = [
        (f"aggregates: {name}", "", [float(one.aggregates[at]) for one in found.methods.values()])
        for at, name in enumerate(GROUPS)
    ]
    lines += [
        (name, found.story.context[name] or "(not known)", [float(value) for value in values])
        for name, *values in zip(COLUMNS, *(one.context for one in found.methods.values()), strict=False)
    ]
    return sorted(lines, key=lambda line: -max(map(abs, line[2])))


def headline(found: Explanation) -> str:
    """The score in one sentence."""
    return (
        f"{found.model.name} {found.model.version} gives {found.story.user_id} "
        f"{found.horizon} = {found.probability:.4f} (logit {found.logit:+z.2f}) after {len(found.story.steps)} events"
    )


def notes(found: Explanation) -> list[str]:
    """What a reader needs to read the numbers."""
    first = (
        "Contributions are in calibrated logits: +0.69 doubles the odds. Events: what the score loses without the "
        "event, through the sequence and through the aggregates. The parts beside them tell the same score another way."
    )
    said = [first]
    if found.integrated is not None:
        said.append(
            f"Integrated gradients explain a change of {found.integrated.change:+z.2f} from a window that says "
            f"nothing; embeddings, aggregates and context add up to it but for {abs(found.integrated.gap):.3f}."
        )
    if found.codes:
        codes = ", ".join(f"{code} {weight:+z.2f}" for code, weight in found.codes.items())
        said.append(f"Reason codes on the stream (a linear surrogate of the 24 h score): {codes}.")
    if found.story.dropped:
        said.append(f"{found.story.dropped} events were duplicates or late and are not in the window.")
    return said


def tables(found: Explanation) -> RenderableType:
    """For a terminal."""
    events = Table(title=_plain(headline(found), style="italic"), title_justify="left")
    events.add_column("#", justify="right")
    for name in ("time", "event", "item or page"):
        events.add_column(name, overflow="fold")
    parts = Table(title="beside the events", title_justify="left")
    parts.add_column("part")
    parts.add_column("is", overflow="fold")
    for name in found.methods:
        events.add_column(name, justify="right", no_wrap=True)
        parts.add_column(name, justify="right", no_wrap=True)
    for row in rows(found):
        step = row["step"]
        events.add_row(
            str(row["number"]),
            _plain(step.time[:19].replace("T", " ")),
            _plain(step.kind),
            _plain(step.item or step.page or ""),
            *map(_signed, row["values"]),
            end_section=row["opens"],
        )
    for name, value, contributions in beside(found):
        parts.add_row(name, _plain(value), *map(_signed, contributions))
    return Group(events, parts, *(_plain(note) for note in notes(found)))


def _plain(text: str, *, style: str = "") -> Text:
    """A shop's own words, as they are: no marks in them, and nothing that steers a terminal."""
    return Text(printable(text), style=style)


def _signed(value: float) -> Text:
    """Coloured by its sign; dots for the only event of a window."""
    if np.isnan(value):
        return Text("·")
    style = "green" if value >= 0.05 else "red" if value <= -0.05 else "dim"
    return Text(f"{value:+z.2f}", style=style)
