"""`python -m loadtest risk`: how much synthetic abuse the risk score finds, at how many false alarms.

Owns the study: whose windows are the background, what counts as found, and the tables. The abuse is `loadtest.abuse`'s.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import orjson
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from loadtest import taken
from worker.errors import IntentError
from worker.scores import RISK_REASONS
from worker.training.labels import TEST

if TYPE_CHECKING:
    from worker.scoring.batch import Batch
    from worker.scoring.habits import Habits
    from worker.training.labels import Events

FALSE_ALARMS: Final = (0.001, 0.01)
"""Of the ordinary visitors, by the greatest score that each had in the week."""

CHOSEN_ON: Final = ("scripted browsing", "cart hoarding", "card testing")
"""Kinds that the way to join signs was chosen on, with windows of the training weeks. The others are held out."""

SURPRISE: Final = "unusual_sequence"

MADE_FOR: Final = {
    "scripted browsing": {"machine_pace", "no_dwell", "regular_pace"},
    "cart hoarding": set[str](),
    "card testing": {"repetition", "repeated_sequence"},
    "account sharing": {"overlapping_sessions"},
    "replayed session": {"repeated_sequence"},
}
"""Signs that were thought of with a kind in mind. Without them the kind is one that nobody foresaw."""

RULE: Final = "the rule"
UNFORESEEN: Final = "unforeseen: "
DETECTORS: Final = {
    "all signs": set(RISK_REASONS),
    "without the surprise": set(RISK_REASONS) - {SURPRISE},
    "the surprise alone": {SURPRISE},
    f"{UNFORESEEN}all signs": set(RISK_REASONS),
    f"{UNFORESEEN}without the surprise": set(RISK_REASONS) - {SURPRISE},
    RULE: set[str](),
}
"""Which signs' rarities are looked at; the rarest counts. Unforeseen: less those made for the kind at hand."""

Doubles = NDArray[np.float64]

out = Console(width=None if sys.stdout.isatty() else 132)  # a file or a pipe has no width: tables stay whole
err = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """What some windows show, and whose they are."""

    rare: Doubles  # [n, signs] decades
    rule: Doubles  # [n]
    owner: NDArray[np.int64]  # [n] 0, 1, ...

    @property
    def owners(self) -> int:
        """How many visitors."""
        return int(self.owner.max()) + 1

    def greatest(self, detector: str, kind: str | None = None) -> Doubles:
        """[owners] the most that each visitor's windows show to one of `DETECTORS` that looks for a kind."""
        codes = DETECTORS[detector]
        if kind is not None and detector.startswith(UNFORESEEN):
            codes = codes - MADE_FOR[kind]
        columns = [at for at, code in enumerate(RISK_REASONS) if code in codes]
        scores = self.rare[:, columns].max(axis=1) if columns else self.rule
        most = np.full(self.owners, -np.inf)
        np.maximum.at(most, self.owner, scores)
        return most


def risk(
    *,
    sample: Annotated[Path, typer.Option("--sample", help="Folder of the GA360 sample.")],
    runs: Annotated[Path, typer.Option(help="Keeps the folded windows for the next run.")] = Path("runs"),
    abusers: Annotated[int, typer.Option(min=20, help="Of each kind of synthetic abuse.")] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    folder: Annotated[Path, typer.Option("--out", help="Folder for risk.json and risk.png.")] = Path("runs/risk"),
    as_json: Annotated[
        bool, typer.Option("--json", help="The JSON on standard output too, in place of the table.")
    ] = False,
) -> None:
    """Measure the risk score on synthetic abuse: recall by kind at 0.1 % and 1 % false alarms. Without Kafka.

    Habits are learnt from the training slice, which no abuse was put into. Abuse is injected behind real visitors'
    windows of the validation week; false alarms are that week's other visitors, bot-like ones left out. The sample's
    bot-like visitors (over 100 hits, a median gap below 1 s) are counted apart. The test slice is not read.
    """
    from worker.scoring.batch import Batch
    from worker.shop.ga360 import Sample
    from worker.training import habits as learning
    from worker.training.labels import member
    from worker.training.windows import build

    load_before = taken.load_before(err)
    rng = np.random.default_rng(seed)
    with err.status("folding the sample") as status:
        events, kept = build(Sample(sample), runs / "cache")
        status.update("learning habits from the training slice")
        known = learning.fit(events, kept, seed=seed)
        status.update("measuring the background")
        machines = bot_like(events)
        week = np.flatnonzero(member(events, "validation")[:, 1] & ~machines[events.visitor])
        ordinary = measure(_batches(kept.take(week)), _numbered(events.visitor[week]), known)
        theirs = np.flatnonzero(machines[events.visitor] & events.instant & (events.time_ms < TEST))
        bots = measure(_batches(kept.take(theirs)), _numbered(events.visitor[theirs]), known)
        shuffled = rng.permutation(week)
        _, first = np.unique(events.visitor[shuffled], return_index=True)
        carriers = kept.take(rng.permutation(shuffled[first])[: 3000 + 4 * abusers])
        found = {}
        for kind, windows, owner in injected(carriers, abusers=abusers, rng=rng):
            status.update(f"measuring {kind}")
            found[kind] = measure([Batch.of(windows)], owner, known)
    document = {
        "taken": taken.provenance(load_before=load_before, packages=("numba", "numpy")),
        "synthetic": "abuse is injected by generators; the sample has no labels of it",
        "background_visitors": ordinary.owners,
        "chosen_on": CHOSEN_ON,
        **recalls(ordinary, found, bots),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "risk.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    plot(ordinary, found, folder / "risk.png")
    if as_json:
        typer.echo(orjson.dumps(document).decode())
        return
    out.print(table(document))
    out.print(f"written: {folder / 'risk.json'}, {folder / 'risk.png'}", highlight=False)


def bot_like(events: "Events") -> NDArray[np.bool_]:
    """[visitors] over 100 hits before the test slice and a median gap below 1 s."""
    seen = np.flatnonzero(events.time_ms < TEST)
    order = seen[np.argsort(events.visitor[seen], kind="stable")]
    visitor, time = events.visitor[order], events.time_ms[order]
    same = visitor[1:] == visitor[:-1]
    gaps, owner = np.diff(time)[same], visitor[1:][same]
    counts = np.bincount(visitor, minlength=int(events.visitor.max()) + 1)
    starts = np.searchsorted(owner, np.arange(len(counts)))
    ends = np.searchsorted(owner, np.arange(len(counts)), side="right")
    return np.array(
        [
            bool(count > 100 and np.median(gaps[start:end]) < 1000)
            for count, start, end in zip(counts.tolist(), starts.tolist(), ends.tolist(), strict=True)
        ]
    )


def injected(
    carriers: Sequence[bytes], *, abusers: int, rng: np.random.Generator
) -> "list[tuple[str, list[bytes], NDArray[np.int64]]]":
    """(kind, windows after each act, whose they are). Half of the carriers lend items and sessions, the others act."""
    from loadtest import abuse

    half = len(carriers) // 2
    real = abuse.shop(carriers[:half])
    if not (real.views and real.lists and real.sessions):
        raise IntentError("the sample's visitors have too few events to invent abuse from")
    made = []
    for kind, generate in abuse.ABUSE.items():
        windows: list[bytes] = []
        owner: list[int] = []
        for number in range(abusers):
            some = abuse.inject(rng, generate(rng, real), carriers[half + number % (len(carriers) - half)])
            windows += some
            owner += [number] * len(some)
        made.append((kind, windows, np.array(owner, np.int64)))
    return made


def measure(batches: "Sequence[Batch]", owner: NDArray[np.int64], known: "Habits") -> Measured:
    """All signs, and the rule, on the same windows."""
    from worker.scoring import habits
    from worker.scoring import risk as scoring

    rare = np.concatenate([habits.decades(habits.signs(batch, known), known.levels) for batch in batches])
    rule = np.concatenate([scoring.risk(batch)[0] for batch in batches]).astype(np.float64)
    return Measured(rare, rule, owner)


def recalls(ordinary: Measured, found: dict[str, Measured], bots: Measured) -> dict[str, Any]:
    """By detector and share of false alarms: recall of each kind with its 95 % interval; of the bot-like, how many."""
    result: dict[str, Any] = {"recall": {}, "bot_like_of": bots.owners, "bot_like_found": {}}
    for detector in DETECTORS:
        for share in FALSE_ALARMS:
            name = f"{detector} at {100 * share:g} %"
            result["recall"][name] = {
                kind: wilson(caught(ordinary, each, detector, share, kind), each.owners) for kind, each in found.items()
            }
            result["bot_like_found"][name] = caught(ordinary, bots, detector, share, None)
    return result


def caught(ordinary: Measured, others: Measured, detector: str, share: float, kind: str | None) -> int:
    """How many of the others show more than all but a share of the ordinary visitors."""
    calm = np.sort(ordinary.greatest(detector, kind))
    return int((others.greatest(detector, kind) > calm[-int(share * len(calm)) - 1]).sum())


def wilson(hits: int, of: int) -> list[float]:
    """A share with its 95 % interval (Wilson 1927)."""
    z = 1.959964
    p, weight = hits / of, z * z / of
    middle = (p + weight / 2) / (1 + weight)
    half = z / (1 + weight) * float(np.sqrt(p * (1 - p) / of + weight / (4 * of)))
    return [round(p, 4), round(max(middle - half, 0.0), 4), round(min(middle + half, 1.0), 4)]


def table(document: dict[str, Any]) -> Table:
    """For people."""
    shown = Table(title="Recall of synthetic abuse, by visitor", title_justify="left", caption_justify="left")
    shown.add_column("looked at, false alarms", no_wrap=True)
    kinds = list(next(iter(document["recall"].values())))
    for kind in kinds:
        shown.add_column(kind if kind in document["chosen_on"] else f"{kind}, held out", justify="right")
    shown.add_column(f"{document['bot_like_of']} bot-like", justify="right")
    for at, (name, recall) in enumerate(document["recall"].items()):
        cells = (f"{value:.2f}\n{low:.2f}–{high:.2f}" for value, low, high in recall.values())
        last = at % len(FALSE_ALARMS) == len(FALSE_ALARMS) - 1
        shown.add_row(name, *cells, str(document["bot_like_found"][name]), end_section=last)
    shown.caption = (
        f"false alarms among {document['background_visitors']:,} real visitors of the validation week; 95 % intervals"
    )
    return shown


def plot(ordinary: Measured, found: dict[str, Measured], path: Path) -> None:
    """Recall over false alarms, a panel a kind, a line a detector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(found), 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (kind, each) in zip(panels, found.items(), strict=True):
        for detector in DETECTORS:
            calm, rare = np.sort(ordinary.greatest(detector, kind)), each.greatest(detector, kind)
            thresholds = np.unique(np.concatenate((calm, rare)))[::-1]
            alarms = 1 - np.searchsorted(calm, thresholds, side="left") / len(calm)
            caught = 1 - np.searchsorted(np.sort(rare), thresholds, side="left") / len(rare)
            axes.plot(np.maximum(100 * alarms, 0.01), caught, label=detector)
        axes.set(xscale="log", xlim=(0.01, 100), title=kind, xlabel="% false alarms")
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("recall (synthetic)")
    panels[-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _batches(windows: Sequence[bytes]) -> "list[Batch]":
    from worker.scoring.batch import Batch

    return [Batch.of(windows[start : start + 20_000]) for start in range(0, len(windows), 20_000)]


def _numbered(names: NDArray[np.int64]) -> NDArray[np.int64]:
    _, numbers = np.unique(names, return_inverse=True)
    return np.asarray(numbers, np.int64)
