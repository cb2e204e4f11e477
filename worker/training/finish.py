"""What a network gets before it serves: calibration, percentiles, reason codes, and what drift is measured against.

For a fresh bundle and for a successor in the same way. Each step takes a bundle and returns it with more; what there is
too little data for stays as it is in the bundle that came. Knows not how the network was trained, nor any files.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from worker.drift.learn import learn
from worker.explain import codes
from worker.scores import REASONS
from worker.scoring.bundle import Bundle
from worker.scoring.calibration import Calibration
from worker.scoring.encode import Vocabulary
from worker.scoring.head import HORIZONS, Shape
from worker.scoring.model import IntentModel, weights
from worker.scoring.percentile import Percentiles
from worker.scoring.reasons import Surrogate
from worker.training import calibrate
from worker.training.examples import Bools, Places, predict
from worker.training.labels import Events, labels
from worker.training.windows import Windows

WORTH_WINDOWS: Final = 5_000
"""Drawn of what the network has learnt from, for the reason codes."""

_DAY: Final = 1  # place of the 24 h horizon, whose logit the reason codes tell


def bare(name: str, shape: Shape, vocabulary: Vocabulary, model: IntentModel, *, card: str = "") -> Bundle:
    """A network as a bundle: its logits' own sigmoids, and reason codes that weigh nothing. No version yet."""
    return Bundle(
        name=name,
        version="",  # known once the files are written
        shape=shape,
        vocabulary=vocabulary,
        weights=weights(model),
        calibration=Calibration(slopes=np.ones(HORIZONS, np.float32), intercepts=np.zeros(HORIZONS, np.float32)),
        surrogate=Surrogate(weights=np.zeros(len(REASONS), np.float32), intercept=0.0, r2=0.0),
        card=card,
    )


def calibrated(
    made: Bundle, events: Events, kept: Windows, member: Bools, *, least: int = 1, device: str = "cpu"
) -> Bundle:
    """With calibration and percentiles from the instants of `member` [n, horizons], which must have taught nothing.

    A horizon with fewer than `least` of either outcome keeps the bundle's calibration; where one has no instants at
    all, the bundle keeps its percentiles.
    """
    places = np.flatnonzero(member.any(axis=1))
    inside, y = member[places], labels(events)[places]
    logits = predict(made.weights, made.vocabulary, kept, places, device=device)
    calibration = calibrate.fit(logits, y, inside, former=made.calibration, least=least)
    percentiles = made.percentiles
    if inside.any(axis=0).all():
        percentiles = Percentiles.fit(calibration.probabilities(logits), inside)
    return replace(made, calibration=calibration, percentiles=percentiles)


def completed(
    made: Bundle,
    events: Events,
    kept: Windows,
    *,
    taught: Places,
    since_ms: int,
    until_ms: int,
    about: str,
    seed: int,
    device: str = "cpu",
) -> Bundle:
    """With reason codes from instants that the 24 h horizon was `taught` by, and drift's reference, of the events in
    [since, until), which `about` says in words. The bundle is calibrated. A minute of one core.
    """
    if len(taught):
        drawn = np.random.default_rng(seed).permutation(taught)[:WORTH_WINDOWS]
        made = replace(made, surrogate=codes.weighed(made, kept.take(drawn), horizon=_DAY))
    recent = np.flatnonzero((events.time_ms >= since_ms) & (events.time_ms < until_ms))
    if len(recent):
        made = replace(made, drift=learn(made, kept, recent, events.visitor[recent], about=about, device=device))
    return made
