"""`python -m loadtest risk`: how much synthetic abuse the risk score finds, at how many false alarms.

Owns the study: whose windows are the background and whose the abuse's. The abuse itself is `loadtest.abuse`'s, what
counts as found `loadtest.recall`'s.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from loadtest import taken, workload
from loadtest.conclude import conclude
from loadtest.options import Json, RealSample, out
from loadtest.recall import CHOSEN_ON, Measured, plot, recalls, table
from worker.errors import IntentError
from worker.scores import RISK_REASONS
from worker.terminal import err
from worker.training.labels import TEST

if TYPE_CHECKING:
    from worker.scoring.batch import Batch
    from worker.scoring.habits import Habits
    from worker.training.labels import Events


def risk(
    *,
    sample: RealSample = None,
    runs: Annotated[Path, typer.Option(help="Keeps the folded windows for the next run.")] = Path("runs"),
    abusers: Annotated[int, typer.Option(min=20, help="Of each kind of synthetic abuse.")] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    folder: Annotated[Path, out("risk.json and risk.png")] = Path("runs/risk"),
    as_json: Json = False,
) -> None:
    """Measure the risk score on synthetic abuse: recall by kind at 0.1 % and 1 % false alarms. Without Kafka.

    Habits are learnt from the training slice, which no abuse was put into. Abuse is injected behind real visitors'
    windows of the validation week; false alarms are that week's visitors as they were, bot-like ones left out. The
    sample's bot-like visitors (over 100 hits, a median gap below 1 s) are counted apart. The test slice is not read.
    """
    from worker.scoring.batch import Batch
    from worker.shop.ga360 import Sample
    from worker.training import habits as learning
    from worker.training.labels import member
    from worker.training.windows import build

    load_before = taken.load_before(err)
    rng = np.random.default_rng(seed)
    with err.status("folding the sample") as status:
        events, kept = build(Sample(workload.needed_sample(sample)), runs / "cache")
        status.update("learning habits from the training slice")
        known = learning.fit(events, kept, seed=seed)
        status.update("measuring the background")
        machines = bot_like(events)
        week = np.flatnonzero(member(events, "validation")[:, 1] & ~machines[events.visitor])
        if not len(week):
            raise IntentError("the sample has no visitors in the validation week; the study needs the whole of it")
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
    drawn = partial(plot, ordinary, found)
    conclude(document, folder, "risk", lambda: [table(document)], as_json=as_json, plot=drawn)


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
    """All signs, and the rule, on the same windows; there may be none."""
    from worker.scoring import habits
    from worker.scoring import risk as scoring

    rare, rule = [np.zeros((0, len(RISK_REASONS)))], [np.zeros(0)]
    for batch in batches:
        rare.append(habits.decades(habits.signs(batch, known), known.levels))
        rule.append(scoring.risk(batch)[0].astype(np.float64))
    return Measured(np.concatenate(rare), np.concatenate(rule), owner)


def _batches(windows: Sequence[bytes]) -> "list[Batch]":
    from worker.scoring.batch import Batch

    return [Batch.of(windows[start : start + 20_000]) for start in range(0, len(windows), 20_000)]


def _numbered(names: NDArray[np.int64]) -> NDArray[np.int64]:
    _, numbers = np.unique(names, return_inverse=True)
    return np.asarray(numbers, np.int64)
