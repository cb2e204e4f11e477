"""Windows and bundles to test with: made by the worker's own fold, from events drawn at random."""

from dataclasses import replace

import numpy as np

from worker import facts, window
from worker.events import KINDS, Context, Event, Item
from worker.scores import REASONS
from worker.scoring import encode, model
from worker.scoring.aggregates import NAMES
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.calibration import Calibration
from worker.scoring.head import Shape
from worker.scoring.reasons import Surrogate

START_MS = 1_475_305_200_000
RULES = window.Rules()


def event(number: int, **fields: object) -> Event:
    given: dict[str, object] = {"event_id": f"e{number}", "user_id": "u", "event_time": START_MS, "type": "page_view"}
    return Event(**(given | fields))  # type: ignore[arg-type]  # each test names fields that fit


def window_of(events: list[Event]) -> bytes:
    encoded: bytes | None = None
    for one in events:
        encoded = window.fold(encoded, facts.of(one), rules=RULES).window
    assert encoded is not None
    return encoded


def random_events(rng: np.random.Generator, count: int) -> list[Event]:
    """A visitor's history: several sessions, some events out of order, with and without items, known and unknown."""
    time_ms, session = START_MS, 0
    events = []
    for number in range(count):
        if rng.random() < 0.1:
            session += 1
            time_ms += int(rng.integers(1, 5 * 86_400_000))
        time_ms += int(rng.choice([0, 40, 900, 15_000, 400_000]))
        late = int(rng.integers(0, 60_000)) if rng.random() < 0.1 else 0
        item = Item(
            item_id=f"sku{rng.integers(0, 30)}",
            item_category=f"c{rng.integers(0, 5)}" if rng.random() < 0.7 else None,
            price=float(np.round(rng.lognormal(3, 1.5), 2)) if rng.random() < 0.8 else None,
        )
        events.append(
            event(
                number,
                event_time=time_ms - late,
                type=str(rng.choice([*KINDS, "unheard_of"])),
                session_id=f"s{session}",
                items=(item,) if rng.random() < 0.5 else (),
                page=f"/p{rng.integers(0, 12)}" if rng.random() < 0.8 else None,
                context=Context(channel="Direct", country=f"k{rng.integers(0, 4)}", visit_number=1 + session)
                if rng.random() < 0.8
                else None,
            )
        )
    return events


def random_windows(count: int, *, seed: int, longest: int = 90) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [window_of(random_events(rng, int(rng.integers(1, longest)))) for _ in range(count)]


def vocabulary(*, seed: int = 5) -> encode.Vocabulary:
    """Knows about half of what `random_windows` holds."""
    return encode.learn([Batch.of(random_windows(60, seed=seed))], least=2, item_buckets=8, page_buckets=4)


def bundle(
    *,
    name: str = "test",
    seed: int = 3,
    members: int = 1,
    aside: int = 0,
    apart: bool = False,
    columns: tuple[str, ...] = encode.COLUMNS,
) -> Bundle:
    """Random weights, larger than a fresh model's, so that scores differ. `columns` are those of its context."""
    import torch

    torch.manual_seed(seed)
    known = vocabulary()
    known = replace(known, contexts={name: known.contexts[name] for name in columns})
    shape = Shape(layers=2, hidden=32, heads=2, head_width=16, members=members, aside=aside, apart=apart)
    made = model.build(shape, known).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
        made.head.means.copy_(torch.rand(len(NAMES)))
    return Bundle(
        name=name,
        version="",
        shape=shape,
        vocabulary=known,
        weights=model.weights(made),
        calibration=Calibration(
            slopes=np.array([0.9, 1.1, 1.0], np.float32), intercepts=np.array([-0.1, 0.2, 0.0], np.float32)
        ),
        surrogate=Surrogate(weights=np.linspace(-1, 1, len(REASONS)).astype(np.float32), intercept=-3.0, r2=0.5),
        card="# test\n",
    )
