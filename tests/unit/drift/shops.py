"""A shop whose mix a test may shift, and a bundle that knows it as it was."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tests.unit.scoring import making
from worker import facts, window
from worker.drift.learn import learn
from worker.events import Context, Event, Item
from worker.scoring.bundle import Bundle
from worker.training.windows import Windows

MIX = {"Direct": 0.5, "Organic Search": 0.4, "Social": 0.1}
SHIFTED = {"Direct": 0.1, "Organic Search": 0.2, "Social": 0.7}


def shop(seed: int, *, visitors: int, mix: dict[str, float] = MIX, new_items: float = 0.0) -> list[Event]:
    """One session a visitor, 1 to 8 events of a few kinds, prices and items; in time order."""
    rng = np.random.default_rng(seed)
    found = []
    for visitor in range(visitors):
        time_ms = making.START_MS + int(rng.integers(0, 3 * 86_400_000))
        context = Context(channel=str(rng.choice(list(mix), p=list(mix.values()))), device="desktop")
        for number in range(int(rng.integers(1, 9))):
            name = f"new{rng.integers(9)}" if rng.random() < new_items else f"sku{rng.integers(30)}"
            item = Item(item_id=name, item_category=f"c{rng.integers(5)}", price=float(rng.integers(1, 90)))
            found.append(
                Event(
                    event_id=f"{seed}-{visitor}-{number}",
                    user_id=f"{seed}-{visitor}",
                    event_time=time_ms,
                    type=str(rng.choice(["page_view", "view_item", "add_to_cart"], p=[0.5, 0.4, 0.1])),
                    session_id=f"s{visitor}",
                    items=(item,) if rng.random() < 0.6 else (),
                    context=context,
                )
            )
            time_ms += int(rng.exponential(30_000))
    return sorted(found, key=lambda event: event.time_ms)


def folded(events: list[Event]) -> Iterator[bytes]:
    held: dict[str, bytes] = {}
    for event in events:
        held[event.user_id] = window.fold(held.get(event.user_id), facts.of(event), rules=making.RULES).window
        yield held[event.user_id]


def watched() -> Bundle:
    """A random model with a reference of 1,500 visitors."""
    made = making.bundle()
    events = shop(1, visitors=1500)
    pieces = list(folded(events))
    kept = Windows(np.frombuffer(b"".join(pieces), np.uint8), np.cumsum([len(piece) for piece in pieces]))
    _, visitor = np.unique([event.user_id for event in events], return_inverse=True)
    return replace(made, drift=learn(made, kept, np.arange(len(events)), visitor, about="test"))
