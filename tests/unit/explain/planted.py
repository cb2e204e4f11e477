"""A model that one kind of event drives: trained for a moment on windows whose logit is the number of such events."""

from dataclasses import replace

import numpy as np
import torch

from tests.unit.scoring import making
from worker.events import KINDS
from worker.scoring import aggregates, encode, model
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.head import Shape

DRIVER = "add_to_cart"


def windows(count: int, *, seed: int) -> list[bytes]:
    """Of 4 to 12 events up to two minutes apart, so that one left out is nothing strange; one in six is a driver."""
    rng = np.random.default_rng(seed)
    others = ["page_view", "view_item_list", "view_item", "search", "view_cart"]
    return [
        making.window_of(
            [
                making.event(
                    number,
                    event_time=making.START_MS + int(time_ms),
                    type=DRIVER if rng.random() < 0.16 else str(rng.choice(others)),
                    session_id="s",
                    page=f"/p{rng.integers(0, 6)}",
                )
                for number, time_ms in enumerate(rng.integers(1_000, 120_000, int(rng.integers(4, 13))).cumsum())
            ]
        )
        for _ in range(count)
    ]


def drivers(encoded: bytes) -> np.ndarray:
    """[n] which events are drivers, oldest first."""
    return np.asarray(Batch.of([encoded]).rows.kind == KINDS.index(DRIVER))


def bundle() -> Bundle:
    torch.manual_seed(0)
    made = making.bundle()
    known = made.vocabulary
    shape = Shape(layers=1, hidden=32, heads=2, head_width=16, dropout=0.0, head_dropout=0.0)
    network = model.build(shape, known)
    given = windows(1024, seed=1)
    batch = Batch.of(given)
    sums = aggregates.aggregates(batch)
    network.head.means.copy_(torch.from_numpy(sums.mean(axis=0)))
    network.head.deviations.copy_(torch.from_numpy(np.maximum(sums.std(axis=0), 1e-2)))
    inputs = [
        torch.from_numpy(array)
        for array in (
            encode.padded(batch, encode.tokens(batch, known), np.arange(len(batch))),
            encode.contexts(batch, known),
            sums,
        )
    ]
    target = torch.tensor([float(drivers(one).sum()) for one in given])
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    rng = np.random.default_rng(2)
    for _ in range(150):
        some = torch.from_numpy(rng.integers(0, len(given), 64))
        out = network(*(part[some] for part in inputs))
        loss = ((out - target[some, None]) ** 2).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return replace(made, weights=model.weights(network))
