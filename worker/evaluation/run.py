"""One evaluation: a bundle and its rivals on a slice of the data. Owns the order, and where rivals are kept.

Rivals depend on the data and on their own recipes only: once made, they serve every later evaluation from the cache.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from worker.errors import IntentError
from worker.evaluation import compare, slices
from worker.evaluation.compare import BLEND, BUNDLE, EVENTS_ONLY, RULE, TREES, Comparison, Scored
from worker.scoring import encode
from worker.scoring.aggregates import NAMES as AGGREGATES
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle, save
from worker.scoring.percentile import Percentiles
from worker.shop.source import Source, Splits
from worker.training import calibrate, finetune, windows
from worker.training.features import CATEGORIES, Features
from worker.training.labels import Bools, Events, labels, member, require
from worker.training.metrics import LEAST_USERS
from worker.training.recipe import Recipe
from worker.training.succession import day, former

Which = Literal["validation", "test"]
Rivals = Literal["none", "trees", "all"]

SHARE: Final = 0.34
"""Of the training instants that rivals learn from: neighbours are near copies, more of them changed nothing."""

ENOUGH: Final = 200_000
"""Instants: of fewer none is passed over, for a small shop's trees lose by it what they would be beaten by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured, and the scores that it was measured on."""

    name: str
    version: str
    which: Which
    draws: int
    comparisons: list[Comparison]
    scored: Scored
    refitted: bool
    """Whether bundle and rivals learnt from all that ends before `learnt_until`, a day."""
    learnt_until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """The slices (`labels.SLICES`) that a bundle learnt from and was calibrated on, and where they begin and end."""

    train: str
    calibration: str
    splits: Splits

    @classmethod
    def by(cls, bundle: Bundle, source: Source) -> "Learnt":
        """A refit learnt from validation too, but for the visitors that calibrate it; `train --again` from the test
        slice as well: then that is empty, and those visitors' last weeks are in it.
        """
        splits = source.splits
        if bundle.recipe is not None and Recipe.of(bundle).knows(source):
            splits = splits.to_the_end()
        if bundle.refitted:
            return cls(train="refit", calibration="refit calibration", splits=splits)
        return cls(train="train", calibration="validation", splits=splits)

    def measured(self, which: Which) -> str:
        """The slice that taught it nothing."""
        return "test" if which == "test" else self.calibration


def evaluate(
    bundle: Bundle,
    source: Source,
    *,
    which: Which,
    against: Rivals,
    draws: int,
    cache: Path,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Half a minute for the bundle alone; with rivals two the first time, four more for `all` of them.

    Rivals learn from what the bundle learnt from. Of a refitted bundle's validation slice, the visitors count that were
    held out of the refit. `report` hears what is being done, `say` what of the source became no event, and what may
    flatter the bundle. Raises `IntentError` for data that lacks the slice, or whose test slice has taught the bundle.
    """
    report("folding events into windows")
    learnt = Learnt.by(bundle, source)
    if which == "test" and learnt.splits.test == learnt.splits.end:
        raise IntentError(
            f"the test slice of {source.name} has taught {bundle.name} {bundle.version}, so that nothing measured "
            "there would be true: take --slice validation, the last weeks of visitors who were held out, or later "
            "data, or the bundle whose recipe it repeats (`intent model show`)"
        )
    if flattered := _flattered(bundle, source, which):
        say(flattered)
    events, kept = windows.build(source, cache, say=say)
    events = replace(events, splits=learnt.splits)
    inside = member(events, learnt.measured(which))
    places = np.flatnonzero(inside.any(axis=1))
    if not len(places):
        raise IntentError(f"{source.name} has no {which} instants; `intent evaluate` needs the whole sample or table")
    report(f"scoring {len(places):,} instants")
    out = finetune.predict(bundle.weights, bundle.vocabulary, kept, places, device=device)
    scorers = {BUNDLE: bundle.calibration.probabilities(out)}
    if against != "none":
        data = windows.key(source)
        everything = against == "all"
        scorers |= _rivals(
            source.name, events, kept, places, learnt, data, cache, everything=everything, device=device, report=report
        )
        scorers[BLEND] = _blend(scorers[BUNDLE], scorers[TREES])
    names = {field: source.names(field) for field in ("channel", "device")}
    features = Features.of(kept, places, bundle.vocabulary)
    scored = Scored(
        member=inside[places],
        y=labels(events)[places],
        visitor=events.visitor[places],
        populations=slices.populations(events, places, features, names),
        scorers=scorers,
    )
    comparisons = compare.compare(scored, draws=draws, report=lambda what: report(f"measuring {what}"))
    if not comparisons:
        raise IntentError(
            f"{source.name} has fewer than {LEAST_USERS} buyers, or others, in the {which} slice; "
            "`intent evaluate` needs the whole sample or table"
        )
    return Evaluation(
        name=bundle.name,
        version=bundle.version,
        which=which,
        draws=draws,
        comparisons=comparisons,
        scored=scored,
        refitted=bundle.refitted,
        learnt_until=day(learnt.splits.test),
    )


def attach(
    folder: Path, bundle: Bundle, source: Source, metrics: Mapping[str, Any], *, cache: Path, device: str = "cpu"
) -> str:
    """Writes a bundle's numbers, and the percentiles of its scores on the validation slice, into its folder.

    The version that it has from now on.
    """
    learnt = Learnt.by(bundle, source)
    events, kept = windows.build(source, cache)
    inside = member(replace(events, splits=learnt.splits), learnt.measured("validation"))
    require(inside, "validation", of=source.name, why="percentiles are of the scores there, and --attach writes them")
    places = np.flatnonzero(inside.any(axis=1))
    out = finetune.predict(bundle.weights, bundle.vocabulary, kept, places, device=device)
    percentiles = Percentiles.fit(bundle.calibration.probabilities(out), inside[places])
    return save(folder, replace(bundle, percentiles=percentiles, metrics=metrics))


def _flattered(bundle: Bundle, source: Source, which: Which) -> str:
    """What the bundle may have learnt of the slice, though it is not known for certain; empty for nothing."""
    whose, before = f"{bundle.name} {bundle.version}", former(bundle)
    if bundle.recipe is None and before is not None:
        return (
            f"{whose} continues {before}: what it learnt since (`intent model show`) flatters it where it lies in the "
            "slice, and the rivals have not learnt it"
        )
    if bundle.recipe is not None and which == "test":
        until_ms = Recipe.of(bundle).until_ms
        if until_ms > source.splits.test:
            return (
                f"{whose} has learnt what became known up to {day(until_ms)}: if these are its shop's events, what is "
                "measured before that day flatters it"
            )
    return ""


def some(pool: NDArray[np.int64], *, share: float) -> NDArray[np.int64]:
    """So large a share of the instants, drawn at random, but about `ENOUGH` of them at least, or all that there are."""
    share = max(share, ENOUGH / max(len(pool), 1))
    return pool[np.random.default_rng(0).random(len(pool)) < share]


def _rivals(
    name: str,
    events: Events,
    kept: windows.Windows,
    places: NDArray[np.int64],
    learnt: Learnt,
    data: str,
    cache: Path,
    *,
    everything: bool,
    device: str,
    report: Callable[[str], None],
) -> dict[str, Floats]:
    """Each rival's calibrated probabilities at `places`. `name` is the data's."""
    from worker.evaluation import events_only, rivals  # LightGBM comes with the extra `training` only
    from worker.training import trees

    def instants(which: str, *, share: float = 1.0) -> tuple[NDArray[np.int64], Bools]:
        """Some of a slice's, and [n, horizons] which they are."""
        inside = member(events, which)
        pool = np.flatnonzero(inside.any(axis=1))
        drawn = some(pool, share=share)
        require(inside[drawn], which, of=name, why="--rivals none measures the bundle alone")
        return drawn, inside

    y = labels(events)
    (drawn, train), (judged, validation) = instants(learnt.train, share=SHARE), instants(learnt.calibration)
    report("computing the rivals' features")
    vocabulary = encode.learn([Batch.of(kept.take(part)) for part in np.array_split(drawn, 10) if len(part)], least=20)

    def known(at: NDArray[np.int64], inside: Bools) -> rivals.Known:
        features = Features.of(kept, at, vocabulary)
        return rivals.Known(features=features, member=inside[at], y=y[at], session=events.session[at])

    seen, chosen = known(drawn, train), known(judged, validation)

    @once
    def before_the_refit() -> tuple[rivals.Known, rivals.Known]:
        return known(*instants("train", share=SHARE)), known(*instants("validation"))

    tuning = None if learnt.train == "train" else before_the_refit
    taught = hashlib.sha256()
    for part in (seen.features.table(), seen.y, seen.member):
        taught.update(part.tobytes())

    def folder(rival: str, made_by: object) -> Path:
        """Changes with what is learnt from, the codes of its categories included, and how."""
        said = json.dumps([data, taught.hexdigest(), AGGREGATES, made_by])
        return cache / f"{rival}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"

    features = Features.of(kept, places, vocabulary)
    report("growing the rival's trees")
    found = {
        RULE: rivals.rule(seen, features),
        TREES: rivals.trees(
            seen,
            chosen,
            features,
            folder("trees", [trees.SETTINGS, trees.LEAVES, rivals.ROUNDS, CATEGORIES]),
            tuning=tuning,
        ),
    }
    if everything:
        report("training the rival BERT on events alone")
        pool, both, recipe = np.flatnonzero(train.any(axis=1)), np.union1d(places, judged), events_only.Recipe()
        out = events_only.logits(
            kept,
            both,
            vocabulary,
            train=events_only.Rows(places=pool, member=train[pool], y=y[pool]),
            validation=events_only.Rows(places=judged, member=validation[judged], y=y[judged]),
            folder=folder("events-only", asdict(recipe)),
            recipe=recipe,
            device=device,
            report=lambda windows: report(f"training the rival BERT on events alone, {windows:,} windows"),
        )
        calibration = calibrate.fit(out[np.searchsorted(both, judged)], y[judged], validation[judged])
        found[EVENTS_ONLY] = calibration.probabilities(out[np.searchsorted(both, places)])
    return found


def _blend(one: Floats, other: Floats) -> Floats:
    """The mean of two scorers' logits, as probabilities."""
    safe = [np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7) for p in (one, other)]
    mean = sum(np.log(p / (1 - p)) for p in safe) / 2
    return np.asarray(1 / (1 + np.exp(-mean)), np.float32)
