"""Windows as a shop's users have them: their lengths and contents are those of the real sample's visitors.

Knows neither where windows are kept nor how they are measured.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from worker import facts, window
from worker.events import Event, decode
from worker.shop import ga360, statistics
from worker.shop.simulate import Crowd, Simulator

_START_MS: Final = 1_760_000_000_000
_SIMULATED: Final = 200_000
NEWEST_MS: Final = _START_MS + 86_400_000
"""No simulated event is later."""


@dataclass(frozen=True, slots=True)
class Population:
    """One window a visitor, after all of the visitor's events. `source` says where they are from."""

    windows: list[bytes]
    source: str

    @property
    def mean_bytes(self) -> float:
        """Of a window."""
        return sum(map(len, self.windows)) / len(self.windows)

    @property
    def mean_events(self) -> float:
        """That a window keeps."""
        return sum(map(window.length, self.windows)) / len(self.windows)

    def users(self, count: int, *, seed: int) -> Iterator[tuple[bytes, bytes]]:
        """So many users, each with the window of a visitor drawn at random; keys are 19 digits, as the sample's."""
        rng = random.Random(seed)
        for number in range(count):
            key = b"%019d" % (rng.randrange(10**12) * 10**7 + number)
            yield key, self.windows[rng.randrange(len(self.windows))]


def made(sample: Path | None) -> Population:
    """From the sample in this folder, or from simulated shoppers where it is None."""
    windows: dict[str, bytes] = {}
    rules = window.Rules()
    for event in events(sample, count=_SIMULATED):
        windows[event.user_id] = window.fold(windows.get(event.user_id), facts.of(event), rules=rules).window
    return Population(list(windows.values()), "the GA360 sample" if sample else "simulated shoppers")


def events(sample: Path | None, *, count: int) -> Iterator[Event]:
    """The sample's events, all of them, or `count` of simulated shoppers where it is None, twenty of each."""
    if sample is not None:
        yield from ga360.Sample(sample).events()
        return
    crowd = Crowd(rate=500, users=max(1, count // 20), speed=200)
    for sent in islice(Simulator(statistics.load(), crowd, seed=1, start_ms=_START_MS), count):
        yield decode(sent.value, key=sent.key, timestamp_ms=NEWEST_MS)
