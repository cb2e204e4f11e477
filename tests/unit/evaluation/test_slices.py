"""Who is in which population, on a handful of made-up instants."""

import numpy as np

from worker.evaluation.slices import DECISION, EVERY, populations
from worker.facts import hash32
from worker.scoring.aggregates import NAMES
from worker.scoring.encode import CONTEXT
from worker.training.features import Features
from worker.training.labels import START, Events


def features(n: int, *, channel: list[str], device: list[str], visit: list[int]) -> Features:
    hashes = np.zeros((n, len(CONTEXT)), np.uint32)
    hashes[:, CONTEXT.index("channel")] = [hash32(name) for name in channel]
    hashes[:, CONTEXT.index("device")] = [hash32(name) for name in device]
    return Features(
        aggregates=np.zeros((n, len(NAMES)), np.float32),
        contexts=np.zeros((n, len(CONTEXT)), np.int64),
        newest=np.zeros((n, 2), np.int64),
        hashes=hashes,
        visit_number=np.array(visit),
    )


def test_each_instant_is_where_it_belongs() -> None:
    session = np.array([0] * 12 + [1] * 3)  # 15 events in two sessions; the table holds those at `places`
    events = Events(
        visitor=session,
        session=session,
        time_ms=START + np.arange(15),
        kind=np.array([1, 1, 5, *[1] * 12]),
        instant=np.ones(15, np.bool_),
        purchase=np.zeros(15, np.bool_),
    )
    places = np.array([0, 1, 2, 5, 9, 11, 14])
    of = features(7, channel=["Direct", "Social", *["Direct"] * 5], device=[""] * 7, visit=[1, 1, 2, 7, 0, 1, 3])
    found = populations(events, places, of, {"channel": ["Direct", "Email", "Social"], "device": ["mobile"]})
    where = {
        by: {name: places[chosen].tolist() for name, chosen in parts.items() if chosen.any()}
        for by, parts in found.items()
    }
    assert where == {
        EVERY: {EVERY: places.tolist()},
        DECISION: {"3rd event": [2, 14], "10th event": [9], "first add to cart": [2]},
        "event of the session": {"1": [0], "2": [1], "3-5": [2, 14], "6-10": [5, 9], "11-20": [11]},
        "channel": {"Direct": [0, 2, 5, 9, 11, 14], "Social": [1]},
        "device": {},
        "visitor": {"new": [0, 1, 11], "returning": [2, 5, 14]},
    }
    assert list(found["channel"]) == ["Direct", "Social"]  # the most frequent first, none that nobody has
